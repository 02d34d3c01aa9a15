output "endpoint" {
  description = "Where applications connect."
  value       = "${module.endpoint.host}:5432"
}

output "connection_string" {
  description = "The password and the certificate are in the secret that application_secret names."
  value       = "postgresql://${module.aurora.database}@${module.endpoint.host}:5432/${module.aurora.database}?sslmode=verify-full&sslrootcert=${var.name}-ca.crt"
}

output "application_secret" {
  description = "In Secrets Manager: username, password, host, port, dbname and ca_certificate."
  value       = module.aurora.application_secret_arn
}

output "client_security_group_id" {
  description = "Give it to what connects."
  value       = module.nodes.client_security_group_id
}

output "application_subnets" {
  description = "Where what connects may be."
  value       = module.network.application_subnets
}

output "sessions" {
  description = "How to open a session on each node; there is no other way in."
  value       = { for id, instance in module.nodes.instance_ids : "node-${id}" => "aws ssm start-session --region ${var.region} --target ${instance}" }
}

output "nodes" {
  description = "Instance ids, by node: what terraform/replace-nodes works from."
  value       = module.nodes.instance_ids
}

output "hand_over" {
  description = "What terraform/hand-over works from. Nothing in it is secret."
  value = {
    cluster       = var.name
    region        = var.region
    host          = module.endpoint.host
    port          = 5432
    addresses     = compact([module.endpoint.address])
    database      = module.aurora.database
    administrator = merge(module.aurora.administrator, { through = module.nodes.instance_ids["a"] })
    application   = module.aurora.application_secret_arn
    nodes         = module.nodes.secret_arns
    servers       = {}
  }
}
