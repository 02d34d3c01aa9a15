variables {
  name          = "shop"
  kind          = "node"
  log_group_arn = "arn:aws:logs:eu-central-1:111122223333:log-group:/komainu/shop"
  members = {
    a = { secret_arns = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop/node-a-x"] }
    b = { secret_arns = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop/node-b-x"] }
  }
  member_statements = {
    b = [{ Sid = "Own", Effect = "Allow", Action = "ssm:GetParameter", Resource = "arn:aws:ssm:eu-central-1:111122223333:parameter/x" }]
  }
  statements = [{ Sid = "Move", Effect = "Allow", Action = ["ec2:ReplaceRoute"], Resource = ["arn:aws:ec2:eu-central-1:111122223333:route-table/rtb-1"] }]
}

run "each_reads_its_own_secret_only" {
  assert {
    condition = alltrue([for member, policy in aws_iam_role_policy.this :
      toset(one([for statement in jsondecode(policy.policy).Statement : statement if statement.Sid == "OwnSecret"]).Resource) == toset(var.members[member].secret_arns)
    ])
    error_message = "A role reads another's secret."
  }
  assert {
    condition = alltrue(flatten([for policy in aws_iam_role_policy.this : [
      for statement in jsondecode(policy.policy).Statement : statement.Sid == "OwnSecret" if contains(flatten([statement.Action]), "secretsmanager:GetSecretValue")
    ]]))
    error_message = "Secrets are read by another statement, too."
  }
}

run "a_star_stands_only_where_aws_has_nothing_narrower" {
  assert {
    condition = toset(flatten([for policy in aws_iam_role_policy.this : [
      for statement in jsondecode(policy.policy).Statement : statement.Sid if contains(flatten([statement.Resource]), "*")
    ]])) == toset(["Metrics", "SessionManager"])
    error_message = "A statement is for everything."
  }
  assert {
    condition = alltrue(flatten([for policy in aws_iam_role_policy.this : [
      for statement in jsondecode(policy.policy).Statement : !anytrue([for action in flatten([statement.Action]) : strcontains(action, "*")])
    ]]))
    error_message = "An action has a wildcard."
  }
}

run "statements_of_one_are_not_the_others" {
  assert {
    condition     = !strcontains(aws_iam_role_policy.this["a"].policy, "\"Own\"") && strcontains(aws_iam_role_policy.this["b"].policy, "\"Own\"")
    error_message = "member_statements went to the wrong role."
  }
  assert {
    condition     = alltrue([for policy in aws_iam_role_policy.this : strcontains(policy.policy, "ec2:ReplaceRoute")])
    error_message = "The common statements are missing."
  }
}

run "only_instances_take_the_role" {
  assert {
    condition     = alltrue([for role in aws_iam_role.this : jsondecode(role.assume_role_policy).Statement[0].Principal == { Service = "ec2.amazonaws.com" }])
    error_message = "Somebody else may take the role."
  }
}

run "no_session_manager_if_not_wanted" {
  variables {
    session_manager = false
  }

  assert {
    condition     = alltrue([for policy in aws_iam_role_policy.this : !strcontains(policy.policy, "ssmmessages:")])
    error_message = "Sessions may be opened all the same."
  }
}

run "passwords_of_roles_are_each_one_secret_or_one_user" {
  variables {
    role_secret_arns      = ["arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop/app-x"]
    database_user_arns    = ["arn:aws:rds-db:eu-central-1:111122223333:dbuser:cluster-ABCDEFGHIJKL/komainu"]
    database_cluster_arns = ["arn:aws:rds:eu-central-1:111122223333:cluster:shop"]
  }

  assert {
    condition = alltrue([for policy in aws_iam_role_policy.this : jsonencode({
      for statement in jsondecode(policy.policy).Statement : statement.Sid => { action = flatten([statement.Action]), resource = flatten([statement.Resource]) }
      if contains(["RoleSecrets", "RoleTokens", "DescribeCluster", "DescribeInstances"], statement.Sid)
      }) == jsonencode({
      RoleSecrets       = { action = ["secretsmanager:GetSecretValue"], resource = var.role_secret_arns }
      RoleTokens        = { action = ["rds-db:connect"], resource = var.database_user_arns }
      DescribeCluster   = { action = ["rds:DescribeDBClusters"], resource = ["arn:aws:rds:eu-central-1:111122223333:cluster:shop"] }
      DescribeInstances = { action = ["rds:DescribeDBInstances"], resource = ["arn:aws:rds:eu-central-1:111122223333:db:*"] }
    })])
    error_message = "The statements are not those that credentials-aws.md shows."
  }
}

run "no_role_is_logged_in_as_by_a_wildcard" {
  command = plan

  variables {
    database_user_arns = ["arn:aws:rds-db:eu-central-1:111122223333:dbuser:*/komainu"]
  }

  expect_failures = [var.database_user_arns]
}

run "no_cluster_is_asked_about_by_a_wildcard" {
  command = plan

  variables {
    database_cluster_arns = ["arn:aws:rds:eu-central-1:111122223333:cluster:*"]
  }

  expect_failures = [var.database_cluster_arns]
}
