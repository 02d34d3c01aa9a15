# A cluster as Amazon RDS knows it, and what surrounds it: parameters, subnets, a security group, the applications' secret.
# The modules rds and aurora make it into a Multi-AZ DB cluster and into an Aurora cluster.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

# The latest minor version of the major one, with the family of its parameters.
data "aws_rds_engine_version" "this" {
  engine  = var.engine
  version = var.postgres_version
  latest  = true
}

locals {
  tags          = merge(var.tags, { "komainu:cluster" = var.name })
  administrator = "postgres"
}

resource "aws_db_subnet_group" "this" {
  name        = var.name
  description = "${var.engine} cluster ${var.name}"
  subnet_ids  = [for subnet in var.subnets : subnet.id]
  tags        = local.tags
}

resource "aws_rds_cluster_parameter_group" "this" {
  name_prefix = "${var.name}-"
  description = "${var.engine} cluster ${var.name}"
  family      = data.aws_rds_engine_version.this.parameter_group_family
  tags        = local.tags

  dynamic "parameter" {
    for_each = merge(var.settings, { "rds.force_ssl" = "1" })

    content {
      name         = parameter.key
      value        = parameter.value
      apply_method = "pending-reboot"
    }
  }

  # Another major version has another family: the cluster leaves the old group before it goes.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_rds_cluster" "this" {
  cluster_identifier                  = var.name
  engine                              = data.aws_rds_engine_version.this.engine
  engine_version                      = data.aws_rds_engine_version.this.version_actual
  db_subnet_group_name                = aws_db_subnet_group.this.name
  vpc_security_group_ids              = [aws_security_group.this.id]
  db_cluster_parameter_group_name     = aws_rds_cluster_parameter_group.this.name
  port                                = 5432
  database_name                       = var.database
  master_username                     = local.administrator
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = var.kms_key_arn
  iam_database_authentication_enabled = true
  storage_encrypted                   = true
  kms_key_id                          = var.kms_key_arn
  snapshot_identifier                 = var.snapshot_id
  backup_retention_period             = var.backup_days
  copy_tags_to_snapshot               = true
  db_cluster_instance_class           = var.each_instance == null ? null : var.each_instance.class
  storage_type                        = var.each_instance == null ? null : var.each_instance.type
  allocated_storage                   = var.each_instance == null ? null : var.each_instance.size_gb
  iops                                = var.each_instance == null ? null : var.each_instance.iops
  enabled_cloudwatch_logs_exports     = ["postgresql"]
  deletion_protection                 = var.deletion_protection
  skip_final_snapshot                 = !var.final_snapshot
  # Made anew with each stack, so that a snapshot of an earlier one is not in the way.
  final_snapshot_identifier = "${var.name}-of-${formatdate("YYYYMMDDhhmmss", plantimestamp())}"
  tags                      = local.tags

  # AWS brings minor versions up to date by itself.
  lifecycle {
    ignore_changes = [engine_version, final_snapshot_identifier, snapshot_identifier]
  }
}

# Empty: no password passes through terraform. terraform/hand-over fills it.
resource "aws_secretsmanager_secret" "application" {
  name_prefix             = "${var.name}/${var.database}-"
  description             = "How applications connect as ${var.database}"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.secret_recovery_days
  tags                    = local.tags
}

# Who may talk to the instances. Applications do not: they come through the nodes.
resource "aws_security_group" "this" {
  name        = "${var.name}-servers"
  description = "${var.engine} cluster ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-servers" })
}

resource "aws_vpc_security_group_ingress_rule" "nodes" {
  security_group_id            = aws_security_group.this.id
  description                  = "Nodes"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = var.node_security_group_id
  tags                         = local.tags
}
