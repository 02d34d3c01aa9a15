# Three komainu nodes. A node is its network interface, its volume and its secret; the instance may be replaced.

data "aws_region" "this" {}

locals {
  tags = merge(var.tags, { "komainu:cluster" = var.name })
}

resource "aws_network_interface" "this" {
  for_each = var.subnets

  subnet_id         = each.value.id
  description       = "komainu node ${each.key} of ${var.name}"
  security_groups   = [aws_security_group.this.id]
  source_dest_check = var.source_dest_check
  tags              = merge(local.tags, { Name = "${var.name}-node-${each.key}" })
}

# The cluster's log is on a volume of its own: an instance that is replaced goes on as the same voter.
resource "aws_ebs_volume" "this" {
  for_each = var.subnets

  availability_zone = each.value.zone
  type              = "gp3"
  size              = var.volume_size_gb
  encrypted         = true
  kms_key_id        = var.kms_key_arn
  tags              = merge(local.tags, { Name = "${var.name}-node-${each.key}" })

  # It counts once: three new volumes are no cluster.
  lifecycle {
    ignore_changes = [kms_key_id]
  }
}

# Empty: no key passes through terraform. terraform/hand-over fills it.
resource "aws_secretsmanager_secret" "this" {
  for_each = var.subnets

  name_prefix             = "${var.name}/node-${each.key}-"
  description             = "Certificate, key and passwords of komainu node ${each.key}"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.secret_recovery_days
  tags                    = local.tags
}

resource "aws_instance" "this" {
  for_each = var.subnets

  ami                     = var.image_id
  instance_type           = var.instance_type
  iam_instance_profile    = var.instance_profiles[each.key]
  ebs_optimized           = true
  disable_api_termination = var.termination_protection
  tags                    = merge(local.tags, { Name = "${var.name}-node-${each.key}" })

  # Nothing in it is secret: whoever may describe the instance can read it.
  user_data = jsonencode({
    komainu = {
      version   = 1
      role      = "node"
      id        = each.key
      cluster   = var.name
      region    = data.aws_region.this.region
      secret    = aws_secretsmanager_secret.this[each.key].arn
      volume    = aws_ebs_volume.this[each.key].id
      addresses = var.host_addresses
      log_group = var.log_group
      files = {
        "komainu.toml"  = var.configurations[each.key]
        "pool_hba.conf" = var.pool_hba
      }
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

  # Another image or configuration must never replace all nodes at once, nor another type or key stop them: that is done one
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
