variables {
  name                   = "shop"
  vpc_id                 = "vpc-1"
  subnets                = { a = { id = "subnet-1", zone = "z1" }, b = { id = "subnet-2", zone = "z2" }, c = { id = "subnet-3", zone = "z3" } }
  node_security_group_id = "sg-nodes"
  engine                 = "aurora-postgresql"
  postgres_version       = "16"
  settings               = {}
  database               = "app"
  backup_days            = 7
  deletion_protection    = true
  snapshot_id            = null
  final_snapshot         = true
  kms_key_arn            = null
  secret_recovery_days   = 7
  tags                   = {}
}

run "in_three_zones" {
  assert {
    condition     = toset(aws_db_subnet_group.this.subnet_ids) == toset(["subnet-1", "subnet-2", "subnet-3"])
    error_message = "The cluster is not in these subnets."
  }
}

run "encrypted_and_protected" {
  assert {
    condition     = aws_rds_cluster.this.storage_encrypted && aws_rds_cluster.this.deletion_protection && !aws_rds_cluster.this.skip_final_snapshot
    error_message = "The cluster is not encrypted, or gone by accident."
  }
  assert {
    condition     = startswith(aws_rds_cluster.this.final_snapshot_identifier, "shop-of-2")
    error_message = "The final snapshot has no name of its own."
  }
  assert {
    condition     = { for parameter in aws_rds_cluster_parameter_group.this.parameter : parameter.name => parameter.value } == { "rds.force_ssl" = "1" } && aws_rds_cluster_parameter_group.this.family == "aurora-postgresql16"
    error_message = "Connections need not be encrypted."
  }
  assert {
    condition     = aws_rds_cluster.this.db_cluster_parameter_group_name == aws_rds_cluster_parameter_group.this.name
    error_message = "The cluster has other parameters."
  }
}

run "no_password_of_ours" {
  assert {
    condition     = aws_rds_cluster.this.manage_master_user_password && aws_rds_cluster.this.master_password == null && aws_rds_cluster.this.iam_database_authentication_enabled
    error_message = "The master's password is in the state, or IAM tokens are not taken."
  }
  assert {
    condition     = output.database_user_arns == ["arn:aws:rds-db:eu-central-1:111122223333:dbuser:${aws_rds_cluster.this.cluster_resource_id}/komainu"]
    error_message = "Nodes may log in as somebody else, or elsewhere."
  }
  assert {
    condition     = { for user in output.server_users : user.name => user.secret_arn } == { komainu = null, app = aws_secretsmanager_secret.application.arn }
    error_message = "The nodes take the passwords from elsewhere."
  }
}

run "reached_by_nodes_only" {
  assert {
    condition     = aws_rds_cluster.this.vpc_security_group_ids == toset([aws_security_group.this.id]) && length(aws_security_group.this.ingress) == 0
    error_message = "The cluster has another security group."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.nodes.referenced_security_group_id == "sg-nodes" && aws_vpc_security_group_ingress_rule.nodes.from_port == 5432 && aws_vpc_security_group_ingress_rule.nodes.to_port == 5432
    error_message = "Others than the nodes reach the cluster."
  }
}

run "settings_never_turn_encryption_off" {
  variables {
    settings = { "rds.force_ssl" = "0", log_min_duration_statement = "500" }
  }

  assert {
    condition     = { for parameter in aws_rds_cluster_parameter_group.this.parameter : parameter.name => parameter.value } == { "rds.force_ssl" = "1", log_min_duration_statement = "500" }
    error_message = "A setting was lost, or encryption was."
  }
}

run "multi_az_with_instances_of_its_own" {
  variables {
    engine        = "postgres"
    each_instance = { class = "db.r6gd.large", type = "io1", size_gb = 100, iops = 1000 }
  }

  assert {
    condition     = aws_rds_cluster.this.db_cluster_instance_class == "db.r6gd.large" && aws_rds_cluster.this.allocated_storage == 100 && aws_rds_cluster.this.iops == 1000 && aws_rds_cluster.this.storage_type == "io1"
    error_message = "It is no Multi-AZ DB cluster."
  }
  assert {
    condition     = aws_rds_cluster_parameter_group.this.family == "postgres16" && aws_rds_cluster.this.storage_encrypted && aws_rds_cluster.this.iam_database_authentication_enabled
    error_message = "It has another's parameters, or is not encrypted."
  }
}

run "begins_with_a_snapshot" {
  variables {
    name        = "shop-2"
    snapshot_id = "shop-of-20261128"
  }

  assert {
    condition     = aws_rds_cluster.this.snapshot_identifier == "shop-of-20261128"
    error_message = "It begins empty."
  }
}

run "keeps_its_data_when_the_snapshot_is_no_longer_named" {
  variables {
    name = "shop-2"
  }

  assert {
    condition     = output.database_user_arns == run.begins_with_a_snapshot.database_user_arns
    error_message = "The cluster was made anew."
  }
}

run "refuses_a_multi_az_cluster_without_instances" {
  command = plan

  variables {
    engine = "postgres"
  }

  expect_failures = [var.engine]
}

run "refuses_two_zones" {
  command = plan

  variables {
    subnets = { a = { id = "subnet-1", zone = "z1" }, b = { id = "subnet-2", zone = "z1" }, c = { id = "subnet-3", zone = "z3" } }
  }

  expect_failures = [var.subnets]
}

run "refuses_the_cluster_s_own_role_as_the_applications" {
  command = plan

  variables {
    database = "komainu"
  }

  expect_failures = [var.database]
}
