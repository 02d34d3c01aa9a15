output "nodes" {
  description = "komainu.toml of each node, by id."
  value = {
    for id, node in var.nodes : id => templatefile("${path.module}/node.toml.tftpl", {
      id       = id
      zone     = node.zone
      mode     = var.mode
      cluster  = var.cluster
      port     = var.port
      shared   = local.shared
      endpoint = var.endpoint
      extra    = var.extra

      metric_namespace = var.metric_namespace
    })
  }
}

output "servers" {
  description = "komainu.toml of each server's agent, by id; RDS and Aurora have none."
  value = {
    for id, server in var.servers : id => templatefile("${path.module}/server.toml.tftpl", {
      id      = id
      cluster = var.cluster
      shared  = local.shared
    }) if var.mode == "streaming"
  }
}

output "pool_hba" {
  description = "Who may log in at the nodes: everybody but the reserved roles, over TLS, by password."
  value       = <<-EOT
    # TYPE   DATABASE  USER  ADDRESS  METHOD
    host     all  ${join(",", local.reserved)}  all  reject
    hostssl  all  all  all  scram-sha-256
  EOT
}
