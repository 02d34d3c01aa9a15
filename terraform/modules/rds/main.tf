# An RDS Multi-AZ DB cluster: a writer and two readers in three zones, which AWS makes and calls. It makes the writer, too;
# komainu's nodes find it.

module "cluster" {
  source = "../rds-cluster"

  engine                 = "postgres"
  each_instance          = merge(var.storage, { class = var.instance_class })
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

locals {
  # The cluster's endpoint is CLUSTER.cluster-SOMETHING.REGION.rds.amazonaws.com, an instance's INSTANCE.SOMETHING.REGION.….
  instance_endpoint = replace(module.cluster.endpoint, "/^[^.]+\\.cluster-/", "?.")
}
