output "servers" {
  description = "By instance, as AWS calls them: its own endpoint, for the module configuration. Which is in which zone, AWS chooses."
  value       = { for id in [for number in [1, 2, 3] : "${var.name}-instance-${number}"] : id => { host = replace(local.instance_endpoint, "?", id) } }
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
