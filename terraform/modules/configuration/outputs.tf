output "nodes" {
  description = "komainu.toml of each node, by id."
  value = {
    for id, node in var.nodes : id => templatefile("${path.module}/node.toml.tftpl", {
      id       = id
      zone     = node.zone
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
  description = "komainu.toml of each server's agent, by id."
  value = {
    for id, server in var.servers : id => templatefile("${path.module}/server.toml.tftpl", {
      id      = id
      cluster = var.cluster
      shared  = local.shared
    })
  }
}

output "pool_hba" {
  description = "Who may log in at the nodes: everybody but the cluster's own roles, over TLS, by password."
  value       = <<-EOT
    # TYPE   DATABASE  USER                                                                    ADDRESS  METHOD
    host     all       postgres,komainu,komainu_auth,komainu_operator,komainu_rewind,replicator  all      reject
    hostssl  all       all                                                                     all      scram-sha-256
  EOT
}
