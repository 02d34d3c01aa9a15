# What applications connect to, and what komainu may do to move it. komainu moves it, so nothing here moves it back.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  tags      = merge(var.tags, { "komainu:cluster" = var.name })
  arn       = "arn:${data.aws_partition.this.partition}:ec2:${data.aws_region.this.region}:${data.aws_caller_identity.this.account_id}"
  domain    = coalesce(var.domain, "${var.name}.internal")
  host      = "${var.label}.${local.domain}"
  zone_id   = var.zone_id == null ? aws_route53_zone.this[0].zone_id : var.zone_id
  first     = var.interfaces[sort(keys(var.interfaces))[0]]
  is_route  = var.method == "route-table"
  is_eip    = var.method == "elastic-ip"
  is_record = var.method == "route53"
}

resource "aws_route53_zone" "this" {
  count = var.zone_id == null ? 1 : 0

  name    = local.domain
  comment = "komainu cluster ${var.name}"
  # With the method route53 komainu writes a record here and one more for its epoch. They go with the zone.
  force_destroy = true
  tags          = local.tags

  vpc {
    vpc_id = var.vpc_id
  }

  # Other networks that know the name are associated elsewhere (aws_route53_zone_association), and stay so.
  lifecycle {
    ignore_changes = [vpc]
  }
}

# A fixed name for an address that does not change. With the method route53 the record is komainu's own.
resource "aws_route53_record" "this" {
  count = local.is_record ? 0 : 1

  zone_id = local.zone_id
  name    = local.host
  type    = "A"
  ttl     = 300
  records = [local.is_eip ? aws_eip.this[0].public_ip : var.address]
}

resource "aws_route" "this" {
  for_each = local.is_route ? var.route_tables : {}

  route_table_id         = each.value
  destination_cidr_block = "${var.address}/32"
  network_interface_id   = local.first

  # It is made here so that it goes away with the rest. Where it leads is komainu's.
  lifecycle {
    ignore_changes = [network_interface_id]
  }
}

resource "aws_eip" "this" {
  count = local.is_eip ? 1 : 0

  domain = "vpc"
  tags   = merge(local.tags, { Name = local.host })

  # Whose it is, is komainu's.
  lifecycle {
    ignore_changes = [instance, network_interface, associate_with_private_ip]
  }
}

locals {
  eip_id = one(aws_eip.this[*].allocation_id)

  # One list for each method; those of the others are empty.
  statements = {
    route-table = [for statement in [
      {
        Sid      = "SeeRoutes"
        Effect   = "Allow"
        Action   = ["ec2:DescribeRouteTables", "ec2:DescribeNetworkInterfaces"]
        Resource = ["*"]
      },
      {
        Sid      = "SeeQuota"
        Effect   = "Allow"
        Action   = ["servicequotas:GetServiceQuota"]
        Resource = ["*"]
      },
      {
        Sid    = "MoveRoutes"
        Effect = "Allow"
        Action = ["ec2:CreateRoute", "ec2:ReplaceRoute"]
        # IAM has no condition for a route's destination or target.
        Resource = [for table in values(var.route_tables) : "${local.arn}:route-table/${table}"]
      },
    ] : statement if local.is_route]

    elastic-ip = [for statement in [
      {
        Sid      = "SeeAddresses"
        Effect   = "Allow"
        Action   = ["ec2:DescribeAddresses", "ec2:DescribeAccountAttributes"]
        Resource = ["*"]
      },
      {
        Sid    = "MoveAddress"
        Effect = "Allow"
        Action = ["ec2:AssociateAddress", "ec2:DisassociateAddress"]
        Resource = concat(
          [for id in compact([local.eip_id]) : "${local.arn}:elastic-ip/${id}"],
          [for interface in values(var.interfaces) : "${local.arn}:network-interface/${interface}"],
        )
      },
    ] : statement if local.is_eip]

    route53 = [for statement in [
      {
        Sid       = "SeeRecords"
        Effect    = "Allow"
        Action    = ["route53:ListResourceRecordSets", "route53:GetHostedZoneLimit"]
        Resource  = ["arn:${data.aws_partition.this.partition}:route53:::hostedzone/${local.zone_id}"]
        Condition = {}
      },
      {
        Sid      = "ChangeRecord"
        Effect   = "Allow"
        Action   = ["route53:ChangeResourceRecordSets"]
        Resource = ["arn:${data.aws_partition.this.partition}:route53:::hostedzone/${local.zone_id}"]
        Condition = {
          "ForAllValues:StringEquals" = {
            "route53:ChangeResourceRecordSetsNormalizedRecordNames" = [local.host, "_komainu.${local.host}"]
            "route53:ChangeResourceRecordSetsRecordTypes"           = ["A", "AAAA", "TXT"]
          }
        }
      },
      {
        Sid       = "SeeSpreading"
        Effect    = "Allow"
        Action    = ["route53:GetChange"]
        Resource  = ["arn:${data.aws_partition.this.partition}:route53:::change/*"]
        Condition = {}
      },
    ] : { for key, value in statement : key => value if length(value) > 0 } if local.is_record]
  }

  toml = {
    route-table = "method.route-table = { tables = ${jsonencode(values(var.route_tables))}, destinations = [\"${var.address}/32\"] }"
    elastic-ip  = "method.elastic-ip = { allocation_id = ${jsonencode(local.eip_id)} }"
    route53     = "method.route53 = { hosted_zone_id = ${jsonencode(local.zone_id)}, name = \"${local.host}\", ttl_s = 5 }"
  }

  # What nobody but the nodes should change, and where CloudTrail tells of it if not in this region. Of an association that
  # is ended it tells no address: the nodes, which change that back, tell of it themselves.
  watched = {
    route-table = { source = "ec2", events = ["CreateRoute", "ReplaceRoute", "DeleteRoute"], parameter = "routeTableId", ids = values(var.route_tables), region = null }
    elastic-ip  = { source = "ec2", events = ["AssociateAddress", "ReleaseAddress"], parameter = "allocationId", ids = compact([local.eip_id]), region = null }
    route53     = { source = "route53", events = ["ChangeResourceRecordSets"], parameter = "hostedZoneId", ids = [local.zone_id], region = "us-east-1" }
  }
}
