output "id" {
  value = aws_rds_cluster.this.id
}

output "arn" {
  value = aws_rds_cluster.this.arn
}

output "engine" {
  value = aws_rds_cluster.this.engine
}

output "endpoint" {
  description = "Of the writer, as AWS moves it."
  value       = aws_rds_cluster.this.endpoint
}

output "subnet_group" {
  value = aws_db_subnet_group.this.name
}

output "tags" {
  value = local.tags
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
