# A VPC of three zones, in each a subnet for nodes, one for database servers and one for applications.
# Nothing here needs a NAT gateway: the instances reach AWS through endpoints.

data "aws_caller_identity" "this" {}
data "aws_region" "this" {}

data "aws_availability_zones" "this" {
  state = "available"

  # Local zones are no place for a third of a majority.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }

  lifecycle {
    postcondition {
      condition     = length(self.names) >= 3
      error_message = "The region shows this account fewer than three zones: with two, the loss of one takes the majority with it."
    }
  }
}

# Not every zone has every type.
data "aws_ec2_instance_type_offerings" "this" {
  for_each = toset(var.instance_types)

  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [each.value]
  }
}

locals {
  able  = [for zone in data.aws_availability_zones.this.names : zone if alltrue([for type in data.aws_ec2_instance_type_offerings.this : contains(type.locations, zone)])]
  zones = var.zones == null ? slice(length(local.able) < 3 ? data.aws_availability_zones.this.names : local.able, 0, 3) : var.zones
  # By position, so that a zone of another name elsewhere makes no other plan.
  by_letter = { for index, zone in local.zones : ["a", "b", "c"][index] => { zone = zone, index = index } }
  tags      = merge(var.tags, { "komainu:cluster" = var.name })
  tiers     = { nodes = 0, servers = 4, applications = 8 }
  subnets = {
    for pair in setproduct(keys(local.tiers), keys(local.by_letter)) : "${pair[0]}-${pair[1]}" => {
      tier = pair[0]
      zone = local.by_letter[pair[1]].zone
      cidr = cidrsubnet(var.cidr, 4, local.tiers[pair[0]] + local.by_letter[pair[1]].index)
    }
  }
  api_cidrs = { for key, subnet in local.subnets : key => subnet.cidr if subnet.tier != "applications" || var.applications_reach_aws }
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.name })

  lifecycle {
    precondition {
      condition     = alltrue([for zone in local.zones : contains(local.able, zone)])
      error_message = "Of these zones not all have the instance types ${join(", ", var.instance_types)}: ${join(", ", local.zones)}. All of them are in: ${join(", ", local.able)}. Choose other types, or `zones`."
    }
  }
}

# Nobody should find something open here by default.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = "${var.name}-default-unused" })
}

resource "aws_subnet" "this" {
  for_each = local.subnets

  vpc_id                  = aws_vpc.this.id
  availability_zone       = each.value.zone
  cidr_block              = each.value.cidr
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.name}-${each.key}" })

  # A zone that is out of order when somebody plans must not have its subnets made anew elsewhere.
  lifecycle {
    ignore_changes = [availability_zone]
  }
}

resource "aws_route_table" "this" {
  for_each = local.tiers

  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_route_table_association" "this" {
  for_each = local.subnets

  subnet_id      = aws_subnet.this[each.key].id
  route_table_id = aws_route_table.this[each.value.tier].id
}

resource "aws_internet_gateway" "this" {
  count = var.internet ? 1 : 0

  vpc_id = aws_vpc.this.id
  tags   = merge(local.tags, { Name = var.name })
}

resource "aws_route" "internet" {
  count = var.internet ? 1 : 0

  route_table_id         = aws_route_table.this["nodes"].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "AWS services, from this VPC's subnets"
  vpc_id      = aws_vpc.this.id
  tags        = merge(local.tags, { Name = "${var.name}-endpoints" })
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  for_each = local.api_cidrs

  security_group_id = aws_security_group.endpoints.id
  description       = "From ${each.key}"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
  tags              = local.tags
}

locals {
  # Services whose endpoints have policies. For others AWS refuses one.
  limited = toset(["ec2", "kms", "logs", "monitoring", "rds", "secretsmanager", "ssm", "ssmmessages"])

  # Who comes from here with credentials of somebody else's brings data out. What each of the account's may do, its role says:
  # applications use these endpoints as well, so no list of actions is right here.
  of_this_account = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OfThisAccount"
      Effect    = "Allow"
      Principal = "*"
      Action    = "*"
      Resource  = "*"
      Condition = { StringEquals = { "aws:PrincipalAccount" = concat([data.aws_caller_identity.this.account_id], var.other_accounts) } }
    }]
  })
}

resource "aws_vpc_endpoint" "interface" {
  for_each = merge(var.interface_endpoints, var.more_interface_endpoints)

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${data.aws_region.this.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  security_group_ids  = [aws_security_group.endpoints.id]
  subnet_ids          = [for letter in slice(["a", "b", "c"], 0, each.value) : aws_subnet.this["servers-${letter}"].id]
  policy              = contains(local.limited, each.key) ? local.of_this_account : null
  tags                = merge(local.tags, { Name = "${var.name}-${each.key}" })
}

# Route 53's API is in one region for all, and its service's name has none.
resource "aws_vpc_endpoint" "route53" {
  count = var.route53_endpoint ? 1 : 0

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.route53"
  service_region      = "us-east-1"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  security_group_ids  = [aws_security_group.endpoints.id]
  subnet_ids          = [for letter in ["a", "b", "c"] : aws_subnet.this["servers-${letter}"].id]
  tags                = merge(local.tags, { Name = "${var.name}-route53" })
}

# Costs nothing. Session Manager's and the CloudWatch agent's packages and patches come from S3.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${data.aws_region.this.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [for table in aws_route_table.this : table.id]
  tags              = merge(local.tags, { Name = "${var.name}-s3" })
}
