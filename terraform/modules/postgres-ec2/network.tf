# Who may talk to a server, and to whom it may talk. Applications do not: they come through the nodes.

resource "aws_security_group" "this" {
  name        = "${var.name}-servers"
  description = "PostgreSQL servers of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-servers" })
}

resource "aws_vpc_security_group_ingress_rule" "nodes" {
  for_each = { postgresql = 5432, agent = 7401 }

  security_group_id            = aws_security_group.this.id
  description                  = "Nodes: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = var.node_security_group_id
  tags                         = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "replication" {
  security_group_id            = aws_security_group.this.id
  description                  = "Servers among themselves"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = aws_security_group.this.id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "replication" {
  security_group_id            = aws_security_group.this.id
  description                  = "Servers among themselves"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = aws_security_group.this.id
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
