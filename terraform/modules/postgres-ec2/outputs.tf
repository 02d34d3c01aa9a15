output "servers" {
  description = "By id: address and zone, for the module configuration."
  value       = { for id, interface in aws_network_interface.this : id => { host = interface.private_ip, zone = var.subnets[id].zone } }
}

output "instance_ids" {
  description = "By server. Those of replaced instances change."
  value       = { for id, instance in aws_instance.this : id => instance.id }
}

output "founder" {
  description = "The server that begins as the primary."
  value       = local.founder
}

output "secret_arns" {
  description = "By server."
  value       = { for id, secret in aws_secretsmanager_secret.this : id => secret.arn }
}

output "application_secret_arn" {
  description = "Where applications find user and password."
  value       = aws_secretsmanager_secret.application.arn
}

output "database" {
  value = var.database
}

output "security_group_id" {
  description = "The servers' security group."
  value       = aws_security_group.this.id
}

output "member_statements" {
  description = "For the module iam: the founder may write that it has founded the database."
  value = {
    (local.founder) = [{
      Sid    = "Found"
      Effect = "Allow"
      Action = ["ssm:GetParameter", "ssm:PutParameter"]
      Resource = [
        "arn:${data.aws_partition.this.partition}:ssm:${data.aws_region.this.region}:${data.aws_caller_identity.this.account_id}:parameter${aws_ssm_parameter.founded.name}"
      ]
    }]
  }
}
