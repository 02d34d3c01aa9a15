# One page that tells at a glance: is it up, who is the primary, who has the endpoint, how late are the standbys, do clients
# wait. Below that, what is looked at when the answer is bad.

data "aws_region" "this" {}

locals {
  # A line for each node.
  by_node = { for name, statistic in {
    ClientConnections                = "Maximum"
    CertificateDaysLeft              = "Minimum"
    DatabaseConnections              = "Maximum"
    DatabaseConnectionsBorrowLatency = "Average"
    Epoch                            = "Maximum"
    HeldClients                      = "Maximum"
    PermissionsMissing               = "Maximum"
    PoolWaiters                      = "Maximum"
    QueryDatabaseResponseLatency     = "Average"
    QueryRequests                    = "Sum"
    QuorumLeaseRemaining             = "Minimum"
    SynchronousStandbysMissing       = "Maximum"
    } : name => [{
      expression = "SEARCH('{${var.metric_namespace},Cluster,Node} MetricName=\"${name}\" Cluster=\"${var.name}\"', '${statistic}', 60)"
      label      = "$${PROP('Dim.Node')} ${name}"
      id         = lower(name)
      region     = data.aws_region.this.region
  }] }

  # Lines of series with one dimension more.
  by_one_more = { for name, how in {
    ApiThrottled               = { dimension = "Endpoint", statistic = "Sum" }
    DriftCorrected             = { dimension = "Endpoint", statistic = "Sum" }
    EndpointEpoch              = { dimension = "Endpoint", statistic = "Maximum" }
    EndpointOwner              = { dimension = "Endpoint", statistic = "Maximum" }
    EndpointProblems           = { dimension = "Endpoint", statistic = "Maximum" }
    FailoverCount              = { dimension = "Kind", statistic = "Maximum" }
    FailoverStandstillByReason = { dimension = "Reason", statistic = "Maximum" }
    InstancesTroubleByReason   = { dimension = "Reason", statistic = "Maximum", before = "instances " }
    MetricsDropped             = { dimension = "Way", statistic = "Sum" }
    PasswordTroublesByReason   = { dimension = "Reason", statistic = "Maximum", before = "passwords " }
    ReadsByServer              = { dimension = "Server", statistic = "Sum" }
    ReadsToPrimary             = { dimension = "Reason", statistic = "Sum" }
    SessionsPinned             = { dimension = "Reason", statistic = "Maximum" }
    } : name => [{
      expression = "SEARCH('{${var.metric_namespace},Cluster,Node,${how.dimension}} MetricName=\"${name}\" Cluster=\"${var.name}\"', '${how.statistic}', 60)"
      label      = "$${PROP('Dim.Node')} ${lookup(how, "before", "")}$${PROP('Dim.${how.dimension}')}"
      id         = lower(name)
      region     = data.aws_region.this.region
  }] }

  # A line for each server, as the node sees it that sees the most.
  by_server = { for name, statistic in { Primary = "Maximum", RejoinFailures = "Maximum", ReplicationLag = "Maximum", ServerUp = "Maximum" } : name => [
    for server in var.servers : {
      expression = "MAX(SEARCH('{${var.metric_namespace},Cluster,Node,Server} MetricName=\"${name}\" Cluster=\"${var.name}\" Server=\"${server}\"', '${statistic}', 60))"
      label      = server
      id         = "${lower(name)}_${replace(server, "-", "_")}"
      region     = data.aws_region.this.region
    }
  ] }

  move_times = [{
    expression = "SEARCH('{${var.metric_namespace},Cluster,Node,Method,Phase} MetricName=\"EndpointMoveTime\" Cluster=\"${var.name}\"', 'Maximum', 60)"
    label      = "$${PROP('Dim.Node')} $${PROP('Dim.Phase')}"
    id         = "endpointmovetime"
    region     = data.aws_region.this.region
  }]

  disks = [for name, instance in var.instances : [
    var.metric_namespace, "disk_used_percent", "InstanceId", instance, "path", "/var/lib/komainu-data", "fstype", "ext4", { label = name }
  ]]

  all_alarms = concat(
    values(aws_cloudwatch_metric_alarm.cluster)[*].arn,
    values(aws_cloudwatch_metric_alarm.single)[*].arn,
  )

  # Title, kind of picture, width of 24, and what is in it.
  pictures = [
    { title = "Who is the primary", view = "singleValue", width = 8, lines = local.by_server.Primary },
    { title = "Who has the endpoint", view = "singleValue", width = 8, lines = local.by_one_more.EndpointOwner },
    { title = "Servers that answer", view = "singleValue", width = 8, lines = local.by_server.ServerUp },
    { title = "How late the standbys are (s)", view = "timeSeries", width = 8, lines = local.by_server.ReplicationLag },
    { title = "Clients that wait: for a connection, for a primary", view = "timeSeries", width = 8, lines = concat(local.by_node.PoolWaiters, local.by_node.HeldClients) },
    { title = "Left of the quorum lease (ms)", view = "timeSeries", width = 8, lines = local.by_node.QuorumLeaseRemaining },
    { title = "Clients", view = "timeSeries", width = 8, lines = local.by_node.ClientConnections },
    { title = "Statements a minute", view = "timeSeries", width = 8, lines = local.by_node.QueryRequests },
    { title = "Reads a minute, by server", view = "timeSeries", width = 8, lines = local.by_one_more.ReadsByServer },
    { title = "Servers' answers take (µs)", view = "timeSeries", width = 8, lines = local.by_node.QueryDatabaseResponseLatency },
    { title = "A connection takes (µs)", view = "timeSeries", width = 8, lines = local.by_node.DatabaseConnectionsBorrowLatency },
    { title = "Server connections", view = "timeSeries", width = 8, lines = local.by_node.DatabaseConnections },
    { title = "Reads that the primary served, by why", view = "timeSeries", width = 8, lines = local.by_one_more.ReadsToPrimary },
    { title = "Sessions pinned, by why", view = "timeSeries", width = 8, lines = local.by_one_more.SessionsPinned },
    { title = "Changes of the primary", view = "timeSeries", width = 8, lines = local.by_one_more.FailoverCount },
    { title = "Why a lost primary is not replaced; standbys that commits miss", view = "timeSeries", width = 8, lines = concat(local.by_one_more.FailoverStandstillByReason, local.by_node.SynchronousStandbysMissing) },
    { title = "Tries in a row to make a standby again that failed", view = "timeSeries", width = 8, lines = local.by_server.RejoinFailures },
    { title = "Epochs", view = "timeSeries", width = 8, lines = concat(local.by_node.Epoch, local.by_one_more.EndpointEpoch) },
    { title = "Moves of the endpoint (ms)", view = "timeSeries", width = 8, lines = local.move_times },
    { title = "Changed by others, and throttled", view = "timeSeries", width = 8, lines = concat(local.by_one_more.DriftCorrected, local.by_one_more.ApiThrottled) },
    { title = "What would go wrong tonight, metrics dropped", view = "timeSeries", width = 8, lines = concat(local.by_node.PermissionsMissing, local.by_one_more.EndpointProblems, local.by_one_more.MetricsDropped) },
    { title = "What AWS does not tell, by why", view = "timeSeries", width = 8, lines = concat(local.by_one_more.InstancesTroubleByReason, local.by_one_more.PasswordTroublesByReason) },
    { title = "Days until certificates end", view = "timeSeries", width = 8, lines = local.by_node.CertificateDaysLeft },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name

  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type       = "alarm"
        x          = 0
        y          = 0
        width      = 24
        height     = 4
        properties = { title = "Is it up", alarms = local.all_alarms }
      }],
      [for number, picture in local.pictures : {
        type   = "metric"
        x      = number % 3 * 8
        y      = 4 + floor(number / 3) * 6
        width  = picture.width
        height = 6
        properties = {
          title   = picture.title
          view    = picture.view
          region  = data.aws_region.this.region
          period  = 60
          metrics = [for line in picture.lines : [line]]
        }
      }],
      [{
        type   = "metric"
        x      = 16
        y      = 4 + floor(length(local.pictures) / 3) * 6
        width  = 8
        height = 6
        properties = {
          title   = "Disks used (%)"
          view    = "timeSeries"
          region  = data.aws_region.this.region
          period  = 300
          stat    = "Maximum"
          metrics = local.disks
        }
      }],
    )
  })
}
