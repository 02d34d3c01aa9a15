# Who may talk to a node, and to whom it may talk. Nothing else.

resource "aws_security_group" "this" {
  name        = "${var.name}-nodes"
  description = "komainu nodes of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-nodes" })
}

# To be given to applications. It opens nothing by itself.
resource "aws_security_group" "clients" {
  name        = "${var.name}-clients"
  description = "May connect to ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-clients" })
}

resource "aws_vpc_security_group_egress_rule" "clients" {
  security_group_id            = aws_security_group.clients.id
  description                  = "To the nodes"
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
  referenced_security_group_id = aws_security_group.this.id
  tags                         = local.tags
}

# A rule for a group is one for the private addresses of its interfaces, of which the endpoint's is none.
resource "aws_vpc_security_group_egress_rule" "clients_to_endpoint" {
  for_each = toset(var.host_addresses)

  security_group_id = aws_security_group.clients.id
  description       = "To the endpoint"
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
  cidr_ipv4         = each.value
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = merge({ clients = aws_security_group.clients.id }, var.client_security_group_ids)

  security_group_id            = aws_security_group.this.id
  description                  = "Applications: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
  referenced_security_group_id = each.value
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "client_cidrs" {
  for_each = var.client_cidrs

  security_group_id = aws_security_group.this.id
  description       = "Applications: ${each.value}"
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
  cidr_ipv4         = each.value
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "peers" {
  security_group_id            = aws_security_group.this.id
  description                  = "Nodes among themselves"
  ip_protocol                  = "tcp"
  from_port                    = 7400
  to_port                      = 7400
  referenced_security_group_id = aws_security_group.this.id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "peers" {
  security_group_id            = aws_security_group.this.id
  description                  = "Nodes among themselves"
  ip_protocol                  = "tcp"
  from_port                    = 7400
  to_port                      = 7400
  referenced_security_group_id = aws_security_group.this.id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "servers" {
  for_each = toset([for port in var.server_ports : tostring(port)])

  security_group_id            = aws_security_group.this.id
  description                  = "Database servers"
  ip_protocol                  = "tcp"
  from_port                    = tonumber(each.key)
  to_port                      = tonumber(each.key)
  referenced_security_group_id = var.server_security_group_id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "api_groups" {
  for_each = var.api.security_group_ids

  security_group_id            = aws_security_group.this.id
  description                  = "AWS: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = each.value
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "api_prefixes" {
  for_each = var.api.prefix_list_ids

  security_group_id = aws_security_group.this.id
  description       = "AWS: ${each.key}"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = each.value
  tags              = local.tags
}

resource "aws_vpc_security_group_egress_rule" "api_cidrs" {
  for_each = var.api.cidrs

  security_group_id = aws_security_group.this.id
  description       = "AWS: ${each.key}"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
  tags              = local.tags
}
