output "host" {
  description = "The name that applications connect to."
  value       = local.host
}

output "address" {
  description = "The address that moves; null with the method route53."
  value       = local.is_record ? null : local.is_eip ? aws_eip.this[0].public_ip : var.address
}

output "toml" {
  description = "The [[endpoint]] section of komainu's configuration."
  value       = "[[endpoint]]\nname = \"${var.label}\"\n${local.toml[var.method]}\n"
}

output "name" {
  description = "What the configuration and the metrics call it."
  value       = var.label
}

output "statements" {
  description = "What a node's role needs to move it."
  value       = local.statements[var.method]
}

output "host_addresses" {
  description = "Addresses that each node's operating system must have, on lo."
  value       = [for address in [var.address] : "${address}/32" if local.is_route]
}

output "watched" {
  description = "The API calls by which somebody else would move it, for the alarm."
  value       = local.watched[var.method]
}
