# A role for each instance. What is allowed names what it is allowed on; "*" stands only where AWS knows nothing narrower.

data "aws_region" "this" {}

locals {
  tags = merge(var.tags, { "komainu:cluster" = var.name })

  logs = var.log_group_arn == null ? [] : [{
    Sid      = "Logs"
    Effect   = "Allow"
    Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
    Resource = "${var.log_group_arn}:*"
  }]

  metrics = [{
    Sid       = "Metrics"
    Effect    = "Allow"
    Action    = "cloudwatch:PutMetricData"
    Resource  = "*"
    Condition = { StringEquals = { "cloudwatch:namespace" = var.metric_namespace } }
  }]

  key = var.kms_key_arn == null ? [] : [{
    Sid       = "SecretsKey"
    Effect    = "Allow"
    Action    = "kms:Decrypt"
    Resource  = var.kms_key_arn
    Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${data.aws_region.this.region}.amazonaws.com" } }
  }]

  # Passwords of database roles that komainu fetches while it runs: server_user.secret_arn.
  role_secrets = length(var.role_secret_arns) == 0 ? [] : [{
    Sid      = "RoleSecrets"
    Effect   = "Allow"
    Action   = "secretsmanager:GetSecretValue"
    Resource = var.role_secret_arns
  }]

  # And those that it signs: server_user.iam_token.
  role_tokens = length(var.database_user_arns) == 0 ? [] : [{
    Sid      = "RoleTokens"
    Effect   = "Allow"
    Action   = "rds-db:connect"
    Resource = var.database_user_arns
  }]

  # A question for the instances of a cluster is one about all instances of the account and region.
  rds = length(var.database_cluster_arns) == 0 ? [] : [
    {
      Sid      = "DescribeCluster"
      Effect   = "Allow"
      Action   = "rds:DescribeDBClusters"
      Resource = var.database_cluster_arns
    },
    {
      Sid      = "DescribeInstances"
      Effect   = "Allow"
      Action   = "rds:DescribeDBInstances"
      Resource = distinct([for arn in var.database_cluster_arns : replace(arn, "/:cluster:.*$/", ":db:*")])
    },
  ]

  # What AmazonSSMManagedInstanceCore has for sessions and commands, without its GetParameter on every parameter of the account.
  # Commands come by ssmmessages, too, where that is allowed; ec2messages is the way of older agents.
  session = !var.session_manager ? [] : [{
    Sid    = "SessionManager"
    Effect = "Allow"
    Action = [
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    Resource = "*"
  }]
}

resource "aws_iam_role" "this" {
  for_each = var.members

  name                 = "${var.name}-${var.kind}-${each.key}"
  description          = "komainu ${var.kind} ${each.key} of ${var.name}"
  permissions_boundary = var.permissions_boundary
  tags                 = local.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  for_each = var.members

  name = "komainu"
  role = aws_iam_role.this[each.key].name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid      = "OwnSecret"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = each.value.secret_arns
      }],
      lookup(var.member_statements, each.key, []),
      var.statements,
      local.logs,
      local.metrics,
      local.key,
      local.role_secrets,
      local.role_tokens,
      local.rds,
      local.session,
    )
  })
}

resource "aws_iam_instance_profile" "this" {
  for_each = var.members

  name = aws_iam_role.this[each.key].name
  role = aws_iam_role.this[each.key].name
  tags = local.tags
}
