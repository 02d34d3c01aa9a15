variables {
  name           = "shop"
  instances      = { node-a = "i-1", pg1 = "i-2" }
  nodes          = ["a", "b", "c-1"]
  servers        = ["pg1", "pg2"]
  endpoints      = ["app"]
  node_role_arns = ["arn:aws:iam::111122223333:role/shop-node-a"]
  watched        = { source = "ec2", events = ["ReplaceRoute"], parameter = "routeTableId", ids = ["rtb-1"] }
}

run "an_alarm_for_each_instance" {
  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.single)) == toset(["a-node-down", "agent-certificate", "b-node-down", "c-1-node-down", "errors", "node-a-disk", "node-a-down", "node-a-hangs", "pg1-disk", "pg1-down", "pg1-hangs"])
    error_message = "An alarm is missing, or has come without a word of it here."
  }
  assert {
    condition     = { for key, alarm in aws_cloudwatch_metric_alarm.single : key => alarm.dimensions.InstanceId if contains(keys(coalesce(alarm.dimensions, {})), "InstanceId") } == { node-a-disk = "i-1", node-a-down = "i-1", node-a-hangs = "i-1", pg1-disk = "i-2", pg1-down = "i-2", pg1-hangs = "i-2" }
    error_message = "An alarm looks at another instance."
  }
  assert {
    condition     = alltrue([for key in ["node-a-down", "pg1-down"] : aws_cloudwatch_metric_alarm.single[key].treat_missing_data == "breaching"])
    error_message = "An instance that says nothing counts as well."
  }
  assert {
    condition     = alltrue([for key, filter in aws_cloudwatch_log_metric_filter.this : aws_cloudwatch_metric_alarm.single[key].metric_name == one(filter.metric_transformation).name && aws_cloudwatch_metric_alarm.single[key].namespace == one(filter.metric_transformation).namespace])
    error_message = "An alarm looks at a metric that no filter makes."
  }
}

run "one_node_that_is_out_is_told_of" {
  assert {
    condition     = aws_cloudwatch_metric_alarm.single["c-1-node-down"].dimensions == tomap({ Cluster = "shop", Node = "c-1" })
    error_message = "An alarm looks at another node."
  }
  assert {
    condition     = alltrue([for node in var.nodes : aws_cloudwatch_metric_alarm.single["${node}-node-down"].treat_missing_data == "breaching"])
    error_message = "A node that says nothing is no good sign."
  }
}

run "a_database_s_storage" {
  variables {
    databases = ["shop-instance-1"]
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.single["shop-instance-1-storage"].dimensions == tomap({ DBInstanceIdentifier = "shop-instance-1" }) && aws_cloudwatch_metric_alarm.single["shop-instance-1-storage"].threshold == 10737418240
    error_message = "Storage may run out without a word."
  }
}

run "the_cluster_as_all_nodes_see_it" {
  assert {
    condition = toset(keys(aws_cloudwatch_metric_alarm.cluster)) == toset([
      "app-changed-by-others", "app-flapping", "app-no-owner", "app-problems", "app-two-owners", "certificate", "commits-wait",
      "epoch-flapping", "failover-stands-still", "no-quorum", "passwords-unknown", "permission-missing", "pg1-lag", "pg1-rejoin-fails",
      "pg1-server-down", "pg2-lag", "pg2-rejoin-fails", "pg2-server-down", "pool-exhausted",
    ])
    error_message = "An alarm is missing, or has come without a word of it here."
  }
  assert {
    condition = toset([
      for query in aws_cloudwatch_metric_alarm.cluster["app-two-owners"].metric_query : one(query.metric).dimensions.Node if length(query.metric) > 0
    ]) == toset(["a", "b", "c-1"])
    error_message = "Not every node is looked at."
  }
  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.cluster["app-two-owners"].metric_query : query.expression if query.return_data == true]) == "SUM([FILL(owner_a, 0), FILL(owner_b, 0), FILL(owner_c_1, 0)])"
    error_message = "Two owners are not what the alarm counts."
  }
  assert {
    condition = alltrue([
      for key in ["app-no-owner", "no-quorum", "pg1-server-down"] : aws_cloudwatch_metric_alarm.cluster[key].treat_missing_data == "breaching"
    ])
    error_message = "Nodes that say nothing at all are no good sign."
  }
  # FILL makes 0 of a minute whose values are late, which neither silences an alarm nor raises one.
  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.cluster : key => [alarm.datapoints_to_alarm, alarm.evaluation_periods] } == {
      app-changed-by-others = [1, 2]
      app-flapping          = [1, 1]
      app-no-owner          = [3, 3]
      app-problems          = [5, 6]
      app-two-owners        = [2, 3]
      certificate           = [1, 1]
      commits-wait          = [2, 3]
      epoch-flapping        = [1, 1]
      failover-stands-still = [2, 3]
      no-quorum             = [3, 3]
      passwords-unknown     = [5, 6]
      permission-missing    = [1, 2]
      pg1-lag               = [3, 4]
      pg1-rejoin-fails      = [1, 2]
      pg1-server-down       = [4, 4]
      pg2-lag               = [3, 4]
      pg2-rejoin-fails      = [1, 2]
      pg2-server-down       = [4, 4]
      pool-exhausted        = [3, 4]
    }
    error_message = "A value that is late silences an alarm, or raises one; or the minute of a move does."
  }
}

run "servers_of_aws" {
  variables {
    managed = true
  }

  assert {
    condition     = length([for key in keys(aws_cloudwatch_metric_alarm.cluster) : key if endswith(key, "-rejoin-fails")]) == 0
    error_message = "Nobody makes a standby of AWS's again but AWS."
  }
  assert {
    condition = one([
      for query in aws_cloudwatch_metric_alarm.cluster["instances-unknown"].metric_query : query.expression if query.return_data == true
    ]) == "MAX([FILL(trouble_a, 0), FILL(trouble_b, 0), FILL(trouble_c_1, 0)])"
    error_message = "One node that cannot ask may be the next leader."
  }
  assert {
    condition = alltrue([
      for query in aws_cloudwatch_metric_alarm.cluster["instances-unknown"].metric_query : one(query.metric).stat == "Minimum" if length(query.metric) > 0
    ]) && aws_cloudwatch_metric_alarm.cluster["instances-unknown"].datapoints_to_alarm == 5
    error_message = "One throttled question calls somebody."
  }
}

run "without_a_topic_nobody_is_told" {
  assert {
    condition     = length(aws_cloudwatch_event_rule.foreign_change) == 0 && alltrue([for key, alarm in aws_cloudwatch_metric_alarm.single : length(alarm.alarm_actions) == 0 if !endswith(key, "-hangs")])
    error_message = "Something is sent to nowhere."
  }
}

run "foreign_changes_are_told_of" {
  variables {
    alarm_topic_arn = "arn:aws:sns:eu-central-1:111122223333:alarms"
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.foreign_change[0].event_pattern).detail["$or"][0].userIdentity.sessionContext.sessionIssuer.arn == [{ "anything-but" = ["arn:aws:iam::111122223333:role/shop-node-a"] }]
    error_message = "The nodes themselves are told of, or others are not."
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.foreign_change[0].event_pattern).detail.requestParameters == { routeTableId = ["rtb-1"] }
    error_message = "Something else is watched."
  }
  assert {
    condition     = alltrue([for alarm in merge(aws_cloudwatch_metric_alarm.single, aws_cloudwatch_metric_alarm.cluster) : contains(alarm.alarm_actions, var.alarm_topic_arn)])
    error_message = "An alarm tells nobody."
  }
}

run "changes_of_a_record_are_told_of_where_route_53_is" {
  variables {
    alarm_topic_arn = "arn:aws:sns:eu-central-1:111122223333:alarms"
    watched         = { source = "route53", events = ["ChangeResourceRecordSets"], parameter = "hostedZoneId", ids = ["Z1"], region = "us-east-1" }
  }

  assert {
    condition     = aws_cloudwatch_event_rule.elsewhere[0].region == "us-east-1" && aws_cloudwatch_event_rule.elsewhere[0].event_pattern == aws_cloudwatch_event_rule.foreign_change[0].event_pattern
    error_message = "Another event is brought here than the rule here waits for."
  }
  assert {
    condition     = aws_cloudwatch_event_target.elsewhere[0].region == "us-east-1" && aws_cloudwatch_event_target.elsewhere[0].arn == "arn:aws:events:eu-central-1:111122223333:event-bus/default"
    error_message = "It is brought elsewhere."
  }
  assert {
    condition     = one(jsondecode(aws_iam_role_policy.elsewhere[0].policy).Statement) == { Sid = "Forward", Effect = "Allow", Action = "events:PutEvents", Resource = "arn:aws:events:eu-central-1:111122223333:event-bus/default" }
    error_message = "The role may do something else."
  }
}

run "nothing_is_brought_to_where_it_is" {
  variables {
    alarm_topic_arn = "arn:aws:sns:eu-central-1:111122223333:alarms"
    watched         = { source = "route53", events = ["ChangeResourceRecordSets"], parameter = "hostedZoneId", ids = ["Z1"], region = "eu-central-1" }
  }

  assert {
    condition     = length(aws_cloudwatch_event_rule.elsewhere) == 0 && length(aws_iam_role.elsewhere) == 0 && length(aws_cloudwatch_event_rule.foreign_change) == 1
    error_message = "An event goes round in a circle."
  }
}

run "an_instance_that_hangs_is_rebooted_and_no_other" {
  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.single : key => alarm.alarm_actions if length(alarm.alarm_actions) > 0 } == {
      for key in ["node-a-hangs", "pg1-hangs"] : key => toset(["arn:aws:automate:eu-central-1:ec2:reboot"])
    }
    error_message = "Something is rebooted that does not hang, or stays as it is."
  }
}

run "nothing_is_rebooted_if_not_wanted" {
  variables {
    reboot_hung_instances = false
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.single : length(alarm.alarm_actions) == 0])
    error_message = "Something is rebooted."
  }
}
