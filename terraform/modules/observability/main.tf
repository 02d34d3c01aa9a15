# The log, and the alarms that look at one metric each: of the instances, AWS, the log, one node. Those that look at all nodes
# are in alarms.tf.

locals {
  tags    = merge(var.tags, { "komainu:cluster" = var.name })
  actions = compact([var.alarm_topic_arn])

  # Lines of the nodes' log, which is JSON, as CloudWatch finds them; more than none of them in a minute is an alarm.
  log_alarms = {
    agent-certificate = {
      pattern     = "{ $.message = \"*days left*\" }"
      description = "The certificate of a node or an agent ends within 30 days: terraform/hand-over --renew"
    }
    errors = {
      pattern     = "{ $.level = \"ERROR\" }"
      description = "komainu logged an error"
    }
  }
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/komainu/${var.name}"
  retention_in_days = var.retention_days
  kms_key_id        = var.kms_key_arn
  tags              = local.tags
}

resource "aws_cloudwatch_log_metric_filter" "this" {
  for_each = local.log_alarms

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = each.value.pattern

  metric_transformation {
    namespace     = var.metric_namespace
    name          = "${var.name}-log-${each.key}"
    value         = "1"
    default_value = "0"
  }
}

locals {
  # Each looks at one metric, once a minute unless `period` says otherwise.
  single_alarms = merge(
    { for key, how in local.log_alarms : key => {
      description = how.description
      namespace   = var.metric_namespace
      metric      = aws_cloudwatch_log_metric_filter.this[key].metric_transformation[0].name
      statistic   = "Sum"
      comparison  = "GreaterThanThreshold"
      threshold   = 0
      missing     = "notBreaching"
    } },
    { for key, instance in var.instances : "${key}-down" => {
      description = "The instance or its host fails AWS's checks, or says nothing"
      namespace   = "AWS/EC2"
      metric      = "StatusCheckFailed"
      dimensions  = { InstanceId = instance }
      statistic   = "Maximum"
      periods     = 2
      comparison  = "GreaterThanThreshold"
      threshold   = 0
      missing     = "breaching"
    } },
    # The instance may be well and komainu not.
    { for node in var.nodes : "${node}-node-down" => {
      description = "For three minutes, the node ${node} has had no lease, or said nothing: komainu does not run there, or does not reach the others"
      namespace   = var.metric_namespace
      metric      = "QuorumLeaseRemaining"
      dimensions  = { Cluster = var.name, Node = node }
      statistic   = "Maximum"
      periods     = 3
      comparison  = "LessThanOrEqualToThreshold"
      threshold   = 0
      missing     = "breaching"
    } },
    # What AWS does by itself when the host fails (maintenance_options) it does not do for an operating system that hangs.
    { for key, instance in var.reboot_hung_instances ? var.instances : {} : "${key}-hangs" => {
      description = "The operating system of the instance has not answered for three minutes: AWS reboots it"
      namespace   = "AWS/EC2"
      metric      = "StatusCheckFailed_Instance"
      dimensions  = { InstanceId = instance }
      statistic   = "Minimum"
      periods     = 3
      comparison  = "GreaterThanThreshold"
      threshold   = 0
      missing     = "missing"
      actions     = ["arn:${data.aws_partition.this.partition}:automate:${data.aws_region.this.region}:ec2:reboot"]
    } },
    # As the image's CloudWatch agent reports it, for the volume that holds the log or the data.
    { for key, instance in var.instances : "${key}-disk" => {
      description = "The data volume is nearly full"
      namespace   = var.metric_namespace
      metric      = "disk_used_percent"
      dimensions  = { InstanceId = instance, path = "/var/lib/komainu-data", fstype = "ext4" }
      statistic   = "Maximum"
      period      = 300
      comparison  = "GreaterThanThreshold"
      threshold   = 85
      missing     = "missing"
    } },
    { for database in var.databases : "${database}-storage" => {
      description = "The database's storage, which does not grow by itself, is nearly full"
      namespace   = "AWS/RDS"
      metric      = "FreeStorageSpace"
      dimensions  = { DBInstanceIdentifier = database }
      statistic   = "Minimum"
      period      = 300
      comparison  = "LessThanThreshold"
      threshold   = var.storage_left_gb * pow(1024, 3)
      missing     = "missing"
    } },
  )
}

resource "aws_cloudwatch_metric_alarm" "single" {
  for_each = local.single_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = lookup(each.value, "dimensions", {})
  statistic           = each.value.statistic
  period              = lookup(each.value, "period", 60)
  evaluation_periods  = lookup(each.value, "periods", 1)
  threshold           = each.value.threshold
  comparison_operator = each.value.comparison
  treat_missing_data  = each.value.missing
  alarm_actions       = concat(local.actions, lookup(each.value, "actions", []))
  ok_actions          = local.actions
  tags                = local.tags
}

# Somebody else moves the endpoint. CloudTrail must record the account's management events, as it does once a trail exists.
locals {
  foreign_change = jsonencode({
    source        = ["aws.${var.watched.source}"]
    "detail-type" = ["AWS API Call via CloudTrail"]
    detail = {
      eventName         = var.watched.events
      requestParameters = { (var.watched.parameter) = var.watched.ids }
      # Users have no session issuer at all.
      "$or" = [
        { userIdentity = { sessionContext = { sessionIssuer = { arn = [{ "anything-but" = var.node_role_arns }] } } } },
        { userIdentity = { sessionContext = { sessionIssuer = { arn = [{ exists = false }] } } } },
      ]
    }
  })

  # A topic is told by a rule of its own region only.
  is_elsewhere = var.alarm_topic_arn != null && var.watched.region != null && var.watched.region != data.aws_region.this.region
  event_bus    = "arn:${data.aws_partition.this.partition}:events:${data.aws_region.this.region}:${data.aws_caller_identity.this.account_id}:event-bus/default"
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}

resource "aws_cloudwatch_event_rule" "foreign_change" {
  count = var.alarm_topic_arn == null ? 0 : 1

  name        = "${var.name}-foreign-change"
  description = "The endpoint of ${var.name} was changed, and not by a node"
  tags        = local.tags

  event_pattern = local.foreign_change
}

resource "aws_cloudwatch_event_target" "foreign_change" {
  count = var.alarm_topic_arn == null ? 0 : 1

  rule = aws_cloudwatch_event_rule.foreign_change[0].name
  arn  = var.alarm_topic_arn
}

# Calls to a service that is one for all regions are told of in its own: from there they come to the bus here, and its rule.
resource "aws_cloudwatch_event_rule" "elsewhere" {
  count = local.is_elsewhere ? 1 : 0

  region        = var.watched.region
  name          = "${var.name}-foreign-change-from-${var.watched.region}"
  description   = "The endpoint of ${var.name} was changed, and not by a node: to ${data.aws_region.this.region}"
  event_pattern = local.foreign_change
  tags          = local.tags
}

resource "aws_cloudwatch_event_target" "elsewhere" {
  count = local.is_elsewhere ? 1 : 0

  region   = var.watched.region
  rule     = aws_cloudwatch_event_rule.elsewhere[0].name
  arn      = local.event_bus
  role_arn = aws_iam_role.elsewhere[0].arn
}

resource "aws_iam_role" "elsewhere" {
  count = local.is_elsewhere ? 1 : 0

  name                 = "${var.name}-foreign-change"
  description          = "Brings what CloudTrail tells of the endpoint of ${var.name} to its region"
  permissions_boundary = var.permissions_boundary
  tags                 = local.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "events.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id }
        ArnEquals    = { "aws:SourceArn" = aws_cloudwatch_event_rule.elsewhere[0].arn }
      }
    }]
  })
}

resource "aws_iam_role_policy" "elsewhere" {
  count = local.is_elsewhere ? 1 : 0

  name = "komainu"
  role = aws_iam_role.elsewhere[0].name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "Forward"
      Effect   = "Allow"
      Action   = "events:PutEvents"
      Resource = local.event_bus
    }]
  })
}
