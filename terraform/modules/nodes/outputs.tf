output "nodes" {
  description = "By id: address and zone, for the module configuration."
  value       = { for id, interface in aws_network_interface.this : id => { host = interface.private_ip, zone = var.subnets[id].zone } }
}

output "interfaces" {
  description = "Network interface ids, by node, for the module endpoint."
  value       = { for id, interface in aws_network_interface.this : id => interface.id }
}

output "instance_ids" {
  description = "By node. Those of replaced instances change."
  value       = { for id, instance in aws_instance.this : id => instance.id }
}

output "secret_arns" {
  description = "By node."
  value       = { for id, secret in aws_secretsmanager_secret.this : id => secret.arn }
}

output "security_group_id" {
  description = "The nodes' security group."
  value       = aws_security_group.this.id
}

output "client_security_group_id" {
  description = "Give it to whatever connects to the endpoint."
  value       = aws_security_group.clients.id
}
