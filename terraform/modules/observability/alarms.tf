# Alarms by what the nodes tell of themselves, and of the servers as they see them: docs/metrics.md has every metric. What
# any node sees is enough for some, so each looks at all nodes; a node that says nothing counts as one that has nothing.

locals {
  # As the names of metrics in an expression may be.
  nodes = { for node in var.nodes : replace(node, "-", "_") => node }

  # `metrics` is what is looked at on each node: what is called `lease` there is `lease_a` of the node a. `each` makes a number
  # of one node's, whose name stands for %[1]s in it, and `combine` makes one of all nodes'. FILL is for nodes that say
  # nothing, and meets the last minute as well while its values are on their way. So an alarm that FILL would silence looks
  # at a minute more than the `minutes` that it takes, and one that FILL would raise takes a minute more.
  cluster_alarms = merge(
    {
      no-quorum = {
        description = "No node has a lease: the nodes have no majority, or say nothing. Nothing is forwarded to the primary."
        metrics     = { lease = { name = "QuorumLeaseRemaining", statistic = "Maximum" } }
        combine     = "MAX"
        each        = "FILL(lease_%[1]s, 0)"
        comparison  = "LessThanOrEqualToThreshold"
        threshold   = 0
        minutes     = 2
        missing     = "breaching"
      }
      epoch-flapping = {
        description = "The primary has changed three times or more within an hour."
        metrics = {
          highest = { name = "Epoch", statistic = "Maximum" }
          lowest  = { name = "Epoch", statistic = "Minimum" }
        }
        combine    = "MAX"
        each       = "highest_%[1]s - lowest_%[1]s"
        comparison = "GreaterThanOrEqualToThreshold"
        threshold  = 3
        period     = 3600
      }
      failover-stands-still = {
        description = "For two minutes, the primary has been lost and is not replaced: komainu status says why."
        metrics     = { still = { name = "FailoverStandstill", statistic = "Maximum" } }
        combine     = "MAX"
        each        = "FILL(still_%[1]s, 0)"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
        minutes     = 2
      }
      commits-wait = {
        description = "For two minutes, commits have waited for synchronous standbys that do not stream: komainu status says how many, and which servers are down."
        metrics     = { missing = { name = "SynchronousStandbysMissing", statistic = "Minimum" } }
        combine     = "MAX"
        each        = "FILL(missing_%[1]s, 0)"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
        minutes     = 2
      }
      pool-exhausted = {
        description = "For three minutes, clients of a node have waited for a server connection: raise pool.size, or look for transactions left open."
        metrics     = { waiters = { name = "PoolWaiters", statistic = "Minimum" } }
        combine     = "MAX"
        each        = "FILL(waiters_%[1]s, 0)"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
        minutes     = 3
      }
      permission-missing = {
        description = "A node was found to lack a permission, so it could not move the endpoint tonight: komainu doctor names it."
        metrics     = { missing = { name = "PermissionsMissing", statistic = "Maximum" } }
        combine     = "MAX"
        each        = "FILL(missing_%[1]s, 0)"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
      }
      passwords-unknown = {
        description = "For five minutes, AWS has not given a node the password of a role, or not anew: komainu doctor says why."
        metrics     = { roles = { name = "PasswordTroubles", statistic = "Minimum" } }
        combine     = "MAX"
        each        = "FILL(roles_%[1]s, 0)"
        comparison  = "GreaterThanThreshold"
        threshold   = 0
        minutes     = 5
      }
      certificate = {
        description = "A node's certificate ends within 30 days: terraform/hand-over --renew"
        metrics     = { days = { name = "CertificateDaysLeft", statistic = "Minimum" } }
        combine     = "MIN"
        each        = "days_%[1]s"
        comparison  = "LessThanThreshold"
        threshold   = 30
      }
    },
    { for key in var.managed ? ["instances-unknown"] : [] : key => {
      # One throttled question changes nothing.
      description = "For five minutes, AWS has not told a node which instances there are, so a new one is not found: komainu doctor says why."
      metrics     = { trouble = { name = "InstancesTrouble", statistic = "Minimum" } }
      combine     = "MAX"
      each        = "FILL(trouble_%[1]s, 0)"
      comparison  = "GreaterThanThreshold"
      threshold   = 0
      minutes     = 5
    } },
    { for endpoint in var.endpoints : "${endpoint}-no-owner" => {
      description = "No node has the endpoint ${endpoint}."
      metrics     = { owner = { name = "EndpointOwner", statistic = "Maximum", dimensions = { Endpoint = endpoint } } }
      combine     = "MAX"
      each        = "FILL(owner_%[1]s, 0)"
      comparison  = "LessThanThreshold"
      threshold   = 1
      minutes     = 2
      missing     = "breaching"
    } },
    { for endpoint in var.endpoints : "${endpoint}-two-owners" => {
      # In the minute of a move both may have had it, when each was asked.
      description = "Two nodes say, for two minutes, that they have the endpoint ${endpoint}."
      metrics     = { owner = { name = "EndpointOwner", statistic = "Minimum", dimensions = { Endpoint = endpoint } } }
      combine     = "SUM"
      each        = "FILL(owner_%[1]s, 0)"
      comparison  = "GreaterThanThreshold"
      threshold   = 1
      minutes     = 2
    } },
    { for endpoint in var.endpoints : "${endpoint}-problems" => {
      description = "For five minutes, a node could not have taken the endpoint ${endpoint}: komainu doctor on each node names what is wrong."
      metrics     = { problems = { name = "EndpointProblems", statistic = "Minimum", dimensions = { Endpoint = endpoint } } }
      combine     = "MAX"
      each        = "FILL(problems_%[1]s, 0)"
      comparison  = "GreaterThanThreshold"
      threshold   = 0
      minutes     = 5
    } },
    { for endpoint in var.endpoints : "${endpoint}-changed-by-others" => {
      description = "Somebody else has changed where the endpoint ${endpoint} leads, and a node has changed it back: CloudTrail knows who."
      metrics     = { drift = { name = "DriftCorrected", statistic = "Sum", dimensions = { Endpoint = endpoint } } }
      combine     = "SUM"
      each        = "FILL(drift_%[1]s, 0)"
      comparison  = "GreaterThanThreshold"
      threshold   = 0
    } },
    { for endpoint in var.endpoints : "${endpoint}-flapping" => {
      description = "The endpoint ${endpoint} was given to another node three times or more within an hour."
      metrics = {
        highest = { name = "EndpointEpoch", statistic = "Maximum", dimensions = { Endpoint = endpoint } }
        lowest  = { name = "EndpointEpoch", statistic = "Minimum", dimensions = { Endpoint = endpoint } }
      }
      combine    = "MAX"
      each       = "highest_%[1]s - lowest_%[1]s"
      comparison = "GreaterThanOrEqualToThreshold"
      threshold  = 3
      period     = 3600
    } },
    { for server in var.servers : "${server}-lag" => {
      description = "For three minutes, the server ${server} has been ${var.lag_seconds} s or more behind the primary."
      metrics     = { lag = { name = "ReplicationLag", statistic = "Minimum", dimensions = { Server = server } } }
      combine     = "MAX"
      each        = "FILL(lag_%[1]s, 0)"
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = var.lag_seconds
      minutes     = 3
    } },
    { for server in var.servers : "${server}-server-down" => {
      description = "For three minutes, no node has reached the server ${server}."
      metrics     = { up = { name = "ServerUp", statistic = "Maximum", dimensions = { Server = server } } }
      combine     = "MAX"
      each        = "FILL(up_%[1]s, 0)"
      comparison  = "LessThanThreshold"
      threshold   = 1
      minutes     = 3
      missing     = "breaching"
    } },
    { for server in var.managed ? [] : var.servers : "${server}-rejoin-fails" => {
      # The first tries come within seconds of each other, and may still meet what broke the server.
      description = "Three times in a row, the server ${server} could not be made a standby again: komainu events has its agent's words."
      metrics     = { failures = { name = "RejoinFailures", statistic = "Maximum", dimensions = { Server = server } } }
      combine     = "MAX"
      each        = "FILL(failures_%[1]s, 0)"
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = 3
    } },
  )

  cluster_periods = { for key, alarm in local.cluster_alarms : key => lookup(alarm, "minutes", 1) + (strcontains(alarm.each, "FILL") ? 1 : 0) }
}

resource "aws_cloudwatch_metric_alarm" "cluster" {
  for_each = local.cluster_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  evaluation_periods  = local.cluster_periods[each.key]
  datapoints_to_alarm = startswith(each.value.comparison, "Less") ? local.cluster_periods[each.key] : lookup(each.value, "minutes", 1)
  treat_missing_data  = lookup(each.value, "missing", "notBreaching")
  alarm_actions       = local.actions
  ok_actions          = local.actions
  tags                = local.tags

  metric_query {
    id          = "result"
    expression  = "${each.value.combine}([${join(", ", [for node in keys(local.nodes) : format(each.value.each, node)])}])"
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
