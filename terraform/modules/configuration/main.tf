# komainu.toml, for nodes and for the agents beside the servers. What all share is the same text in every file.

locals {
  shared = templatefile("${path.module}/shared.toml.tftpl", {
    cluster   = var.cluster
    nodes     = var.nodes
    servers   = var.servers
    sync_mode = var.sync_mode
  })
}
