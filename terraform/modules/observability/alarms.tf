# Alarms by what the nodes tell of themselves, and of the servers as they see them: docs/metrics.md has every metric. What
# any node sees is enough for some, so each looks at all nodes; a node that says nothing counts as one that has nothing.

locals {
  # As the names of metrics in an expression may be.
  nodes = { for node in var.nodes : replace(node, "-", "_") => node }

  # `metrics` is what is looked at on each node: what is called `lease` there is `lease_a` of the node a. `expression` makes
  # one number of them all.
  cluster_alarms = merge(
    {
      no-quorum = {
        description = "No node has a lease: the nodes have no majority, or say nothing. Nothing is forwarded to the primary."
        metrics     = { lease = { name = "QuorumLeaseRemaining", statistic = "Maximum" } }
        expression  = "MAX([${join(", ", [for node in keys(local.nodes) : "FILL(lease_${node}, 0)"])}])"
        comparison  = "LessThanOrEqualToThreshold"
        threshold   = 0
        periods     = 2
        missing     = "breaching"
      }
      epoch-flapping = {
        description = "The primary has changed three times or more within an hour."
        metrics = {
          highest = { name = "Epoch", statistic = "Maximum" }
          lowest  = { name = "Epoch", statistic = "Minimum" }
        }
        expression = "MAX([${join(", ", [for node in keys(local.nodes) : "highest_${node} - lowest_${node}"])}])"
        comparison = "GreaterThanOrEqualToThreshold"
        threshold  = 3
        period     = 3600
      }
      pool-exhausted = {
        description = "For three minutes, clients of a node have waited for a server connection: raise pool.size, or look for transactions left open."
        metrics     = { waiters = { name = "PoolWaiters", statistic = "Minimum" } }
        expression  = "MAX([${join(", ", [for node in keys(local.nodes) : "FILL(waiters_${node}, 0)"])}])"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
        periods     = 3
      }
      permission-missing = {
        description = "A node was found to lack a permission, so it could not move the endpoint tonight: komainu doctor names it."
        metrics     = { missing = { name = "PermissionsMissing", statistic = "Maximum" } }
        expression  = "MAX([${join(", ", [for node in keys(local.nodes) : "FILL(missing_${node}, 0)"])}])"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
      }
      certificate = {
        description = "A node's certificate ends within 30 days: terraform/hand-over --renew"
        metrics     = { days = { name = "CertificateDaysLeft", statistic = "Minimum" } }
        expression  = "MIN([${join(", ", [for node in keys(local.nodes) : "days_${node}"])}])"
        comparison  = "LessThanThreshold"
        threshold   = 30
      }
    },
    { for endpoint in var.endpoints : "${endpoint}-no-owner" => {
      description = "No node has the endpoint ${endpoint}."
      metrics     = { owner = { name = "EndpointOwner", statistic = "Maximum", dimensions = { Endpoint = endpoint } } }
      expression  = "MAX([${join(", ", [for node in keys(local.nodes) : "FILL(owner_${node}, 0)"])}])"
      comparison  = "LessThanThreshold"
      threshold   = 1
      periods     = 2
      missing     = "breaching"
    } },
    { for endpoint in var.endpoints : "${endpoint}-two-owners" => {
      description = "Two nodes say, for a whole minute, that they have the endpoint ${endpoint}."
      metrics     = { owner = { name = "EndpointOwner", statistic = "Minimum", dimensions = { Endpoint = endpoint } } }
      expression  = "SUM([${join(", ", [for node in keys(local.nodes) : "FILL(owner_${node}, 0)"])}])"
      comparison  = "GreaterThanThreshold"
      threshold   = 1
    } },
    { for endpoint in var.endpoints : "${endpoint}-changed-by-others" => {
      description = "Somebody else has changed where the endpoint ${endpoint} leads, and a node has changed it back: CloudTrail knows who."
      metrics     = { drift = { name = "DriftCorrected", statistic = "Sum", dimensions = { Endpoint = endpoint } } }
      expression  = "SUM([${join(", ", [for node in keys(local.nodes) : "FILL(drift_${node}, 0)"])}])"
      comparison  = "GreaterThanThreshold"
      threshold   = 0
    } },
    { for endpoint in var.endpoints : "${endpoint}-flapping" => {
      description = "The endpoint ${endpoint} was given to another node three times or more within an hour."
      metrics = {
        highest = { name = "EndpointEpoch", statistic = "Maximum", dimensions = { Endpoint = endpoint } }
        lowest  = { name = "EndpointEpoch", statistic = "Minimum", dimensions = { Endpoint = endpoint } }
      }
      expression = "MAX([${join(", ", [for node in keys(local.nodes) : "highest_${node} - lowest_${node}"])}])"
      comparison = "GreaterThanOrEqualToThreshold"
      threshold  = 3
      period     = 3600
    } },
    { for server in var.servers : "${server}-lag" => {
      description = "For three minutes, the server ${server} has been ${var.lag_seconds} s or more behind the primary."
      metrics     = { lag = { name = "ReplicationLag", statistic = "Minimum", dimensions = { Server = server } } }
      expression  = "MAX([${join(", ", [for node in keys(local.nodes) : "FILL(lag_${node}, 0)"])}])"
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = var.lag_seconds
      periods     = 3
    } },
    { for server in var.servers : "${server}-server-down" => {
      description = "For three minutes, no node has reached the server ${server}."
      metrics     = { up = { name = "ServerUp", statistic = "Maximum", dimensions = { Server = server } } }
      expression  = "MAX([${join(", ", [for node in keys(local.nodes) : "FILL(up_${node}, 0)"])}])"
      comparison  = "LessThanThreshold"
      threshold   = 1
      periods     = 3
      missing     = "breaching"
    } },
  )
}

resource "aws_cloudwatch_metric_alarm" "cluster" {
  for_each = local.cluster_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  evaluation_periods  = lookup(each.value, "periods", 1)
  treat_missing_data  = lookup(each.value, "missing", "notBreaching")
  alarm_actions       = local.actions
  ok_actions          = local.actions
  tags                = local.tags

  metric_query {
    id          = "result"
    expression  = each.value.expression
    label       = each.key
    return_data = true
  }

  dynamic "metric_query" {
    for_each = merge([for id, metric in each.value.metrics : {
      for key, node in local.nodes : "${id}_${key}" => merge(metric, {
        dimensions = merge({ Cluster = var.name, Node = node }, lookup(metric, "dimensions", {}))
      })
    }]...)

    content {
      id = metric_query.key

      metric {
        namespace   = var.metric_namespace
        metric_name = metric_query.value.name
        stat        = metric_query.value.statistic
        period      = lookup(each.value, "period", 60)
        dimensions  = metric_query.value.dimensions
      }
    }
  }
}
