# A PostgreSQL primary and its standbys on EC2, each with komainu's agent beside it. A server is its network interface, its
# volume and its secret; the instance may be replaced.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  tags    = merge(var.tags, { "komainu:cluster" = var.name })
  founder = sort(keys(var.subnets))[0]
}

resource "aws_network_interface" "this" {
  for_each = var.subnets

  subnet_id       = each.value.id
  description     = "PostgreSQL server ${each.key} of ${var.name}"
  security_groups = [aws_security_group.this.id]
  tags            = merge(local.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_ebs_volume" "this" {
  for_each = var.subnets

  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.volume.size_gb
  iops              = var.volume.iops
  throughput        = var.volume.throughput
  encrypted         = true
  kms_key_id        = var.kms_key_arn
  final_snapshot    = var.final_snapshots
  snapshot_id       = each.key == local.founder ? var.founder_snapshot_id : null
  tags              = merge(local.tags, { Name = "${var.name}-${each.key}" })

  # They count once. Nothing may take a volume with data away because the snapshot is named no longer, or another key is.
  lifecycle {
    ignore_changes = [kms_key_id, snapshot_id]
  }
}

# Empty: no key passes through terraform. terraform/hand-over fills it.
resource "aws_secretsmanager_secret" "this" {
  for_each = var.subnets

  name_prefix             = "${var.name}/${each.key}-"
  description             = "Certificate, key and passwords of PostgreSQL server ${each.key}"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.secret_recovery_days
  tags                    = local.tags
}

resource "aws_secretsmanager_secret" "application" {
  name_prefix             = "${var.name}/${var.database}-"
  description             = "How applications connect as ${var.database}"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.secret_recovery_days
  tags                    = local.tags
}

# Whether there is a database already, outside of every instance and volume: the one server that may run initdb asks here
# first, and says here that it has. A founder that has lost its volume must not found a second, empty database.
resource "aws_ssm_parameter" "founded" {
  name        = "/komainu/${var.name}/founded"
  description = "Whether the database was founded, and on which volume; written by ${local.founder}, once"
  type        = "String"
  value       = var.founder_snapshot_id == null ? "no" : "founded on ${var.founder_snapshot_id}"
  tags        = local.tags

  lifecycle {
    ignore_changes = [value]
  }
}

resource "aws_instance" "this" {
  for_each = var.subnets

  ami                     = var.image_id
  instance_type           = var.instance_type
  iam_instance_profile    = var.instance_profiles[each.key]
  ebs_optimized           = true
  disable_api_termination = var.termination_protection
  tags                    = merge(local.tags, { Name = "${var.name}-${each.key}" })

  # Nothing in it is secret: whoever may describe the instance can read it.
  user_data = jsonencode({
    komainu = {
      version   = 1
      role      = "server"
      id        = each.key
      cluster   = var.name
      region    = data.aws_region.this.region
      secret    = aws_secretsmanager_secret.this[each.key].arn
      volume    = aws_ebs_volume.this[each.key].id
      log_group = var.log_group
      database  = var.database
      founder   = each.key == local.founder
      founded   = aws_ssm_parameter.founded.name
      # Whom to copy the database from, and who may replicate.
      others   = [for id, interface in aws_network_interface.this : interface.private_ip if id != each.key]
      settings = var.settings
      files    = { "komainu.toml" = var.configurations[each.key] }
    }
  })

  primary_network_interface {
    network_interface_id = aws_network_interface.this[each.key].id
  }

  root_block_device {
    volume_type = "gp3"
    encrypted   = true
    kms_key_id  = var.kms_key_arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # AWS moves the instance to other hardware by itself; its interface and volumes come along.
  maintenance_options {
    auto_recovery = "default"
  }

  # Another image or configuration must never replace all servers at once, nor another type or key stop them: that is done one
  # by one (README).
  lifecycle {
    ignore_changes = [ami, instance_type, root_block_device, user_data]
  }
}

resource "aws_volume_attachment" "this" {
  for_each = var.subnets

  device_name                    = "/dev/sdf"
  instance_id                    = aws_instance.this[each.key].id
  volume_id                      = aws_ebs_volume.this[each.key].id
  stop_instance_before_detaching = true
}
