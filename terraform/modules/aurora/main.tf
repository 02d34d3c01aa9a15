# An Aurora PostgreSQL cluster of three instances in three zones. AWS makes the writer; komainu's nodes find it.

module "cluster" {
  source = "../rds-cluster"

  engine                 = "aurora-postgresql"
  name                   = var.name
  vpc_id                 = var.vpc_id
  subnets                = var.subnets
  postgres_version       = var.postgres_version
  settings               = var.settings
  database               = var.database
  node_security_group_id = var.node_security_group_id
  snapshot_id            = var.snapshot_id
  backup_days            = var.backup_days
  deletion_protection    = var.deletion_protection
  final_snapshot         = var.final_snapshot
  kms_key_arn            = var.kms_key_arn
  secret_recovery_days   = var.secret_recovery_days
  tags                   = var.tags
}

resource "aws_rds_cluster_instance" "this" {
  for_each = var.subnets

  identifier                 = "${var.name}-${each.key}"
  cluster_identifier         = module.cluster.id
  engine                     = module.cluster.engine
  instance_class             = var.instance_class
  availability_zone          = each.value.zone
  db_subnet_group_name       = module.cluster.subnet_group
  publicly_accessible        = false
  auto_minor_version_upgrade = true
  copy_tags_to_snapshot      = true
  # The same for all: any of them is as good a writer.
  promotion_tier = 1
  tags           = merge(module.cluster.tags, { Name = "${var.name}-${each.key}" })
}
