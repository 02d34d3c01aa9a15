output "servers" {
  description = "By instance: its own endpoint and zone, for the module configuration."
  value       = { for instance in aws_rds_cluster_instance.this : instance.identifier => { host = instance.endpoint, zone = instance.availability_zone } }
}

output "instance_endpoint" {
  description = "For the module configuration: where an instance is reached, with ? for its name."
  value       = replace(values(aws_rds_cluster_instance.this)[0].endpoint, "/^[^.]+/", "?")
}

output "server_users" {
  description = "For the module configuration: how the nodes log in to the instances."
  value = [
    { name = "komainu", secret_arn = null },
    { name = var.database, secret_arn = aws_secretsmanager_secret.application.arn },
  ]
}

output "database_user_arns" {
  description = "For the module iam: the one role that nodes log in as by IAM token."
  value       = ["arn:${data.aws_partition.this.partition}:rds-db:${data.aws_region.this.region}:${data.aws_caller_identity.this.account_id}:dbuser:${aws_rds_cluster.this.cluster_resource_id}/komainu"]
}

output "database" {
  value = var.database
}

output "application_secret_arn" {
  description = "Where applications, and the nodes, find user and password."
  value       = aws_secretsmanager_secret.application.arn
}

output "administrator" {
  description = "The master user, whose password RDS keeps in a secret and exchanges once a week."
  value       = { name = local.administrator, secret_arn = aws_rds_cluster.this.master_user_secret[0].secret_arn, host = aws_rds_cluster.this.endpoint }
}

output "security_group_id" {
  description = "The instances' security group."
  value       = aws_security_group.this.id
}
