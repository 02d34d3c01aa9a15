output "servers" {
  description = "By instance: its own endpoint and zone, for the module configuration."
  value       = { for instance in aws_rds_cluster_instance.this : instance.identifier => { host = instance.endpoint, zone = instance.availability_zone } }
}

output "instance_endpoint" {
  description = "For the module configuration: where an instance is reached, with ? for its name."
  value       = replace(values(aws_rds_cluster_instance.this)[0].endpoint, "/^[^.]+/", "?")
}

output "cluster" {
  description = "For the modules configuration (id) and iam (arn): the nodes ask RDS which instances it has."
  value       = { id = module.cluster.id, arn = module.cluster.arn }
}

output "server_users" {
  description = "For the module configuration: how the nodes log in to the instances."
  value       = module.cluster.server_users
}

output "database_user_arns" {
  description = "For the module iam: the one role that nodes log in as by IAM token."
  value       = module.cluster.database_user_arns
}

output "database" {
  value = module.cluster.database
}

output "application_secret_arn" {
  description = "Where applications, and the nodes, find user and password."
  value       = module.cluster.application_secret_arn
}

output "administrator" {
  description = "The master user, whose password RDS keeps in a secret and exchanges once a week."
  value       = module.cluster.administrator
}

output "security_group_id" {
  description = "The instances' security group."
  value       = module.cluster.security_group_id
}
