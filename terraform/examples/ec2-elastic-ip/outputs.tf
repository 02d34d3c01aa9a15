output "endpoint" {
  description = "Where applications connect, from outside of the VPC."
  value       = "${module.endpoint.address}:5432"
}

output "private_endpoint" {
  description = "The same, by a name that the VPC's resolver knows: for what has a way to the internet there, since the address is a public one."
  value       = "${module.endpoint.host}:5432"
}

output "connection_string" {
  description = "The password and the certificate are in the secret that application_secret names. The address is in the nodes' certificates."
  value       = "postgresql://${module.postgres.database}@${module.endpoint.address}:5432/${module.postgres.database}?sslmode=verify-full&sslrootcert=${var.name}-ca.crt"
}

output "application_secret" {
  description = "In Secrets Manager: username, password, host, port, dbname and ca_certificate."
  value       = module.postgres.application_secret_arn
}

output "client_security_group_id" {
  description = "Give it to what connects."
  value       = module.nodes.client_security_group_id
}

output "sessions" {
  description = "How to open a session on each instance; there is no other way in."
  value = { for name, id in merge(
    { for id, instance in module.nodes.instance_ids : "node-${id}" => instance },
    module.postgres.instance_ids,
  ) : name => "aws ssm start-session --region ${var.region} --target ${id}" }
}

output "nodes" {
  description = "Instance ids, by node: what terraform/replace-nodes works from."
  value       = module.nodes.instance_ids
}

output "hand_over" {
  description = "What terraform/hand-over works from. Nothing in it is secret."
  value = {
    cluster     = var.name
    region      = var.region
    host        = module.endpoint.host
    port        = 5432
    addresses   = compact([module.endpoint.address])
    connect     = module.endpoint.address
    database    = module.postgres.database
    founder     = module.postgres.founder
    application = module.postgres.application_secret_arn
    nodes       = module.nodes.secret_arns
    servers     = { for id, server in module.postgres.servers : id => { secret = module.postgres.secret_arns[id], address = server.host } }
  }
}
