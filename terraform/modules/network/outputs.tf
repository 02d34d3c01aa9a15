output "vpc_id" {
  value = aws_vpc.this.id
}

output "cidr" {
  value = aws_vpc.this.cidr_block
}

output "node_subnets" {
  description = "By letter: a, b, c."
  value       = { for letter in keys(local.by_letter) : letter => { id = aws_subnet.this["nodes-${letter}"].id, zone = aws_subnet.this["nodes-${letter}"].availability_zone } }
}

output "server_subnets" {
  description = "By letter: a, b, c."
  value       = { for letter in keys(local.by_letter) : letter => { id = aws_subnet.this["servers-${letter}"].id, zone = aws_subnet.this["servers-${letter}"].availability_zone } }
}

output "application_subnets" {
  description = "By letter: a, b, c. For what connects to the endpoint; they have no route to the internet."
  value       = { for letter in keys(local.by_letter) : letter => { id = aws_subnet.this["applications-${letter}"].id, zone = aws_subnet.this["applications-${letter}"].availability_zone } }
}

output "route_tables" {
  description = "By tier: nodes, servers, applications."
  value       = { for tier, table in aws_route_table.this : tier => table.id }
}

output "api" {
  description = "How instances reach AWS, for the modules that make them."
  value = {
    security_group_ids = { endpoints = aws_security_group.endpoints.id }
    prefix_list_ids    = { s3 = aws_vpc_endpoint.s3.prefix_list_id }
    cidrs              = {}
  }
}
