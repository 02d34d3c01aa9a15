# komainu.toml, for nodes and for the agents beside the servers. What all share is the same text in every file.

locals {
  shared = templatefile("${path.module}/shared.toml.tftpl", {
    mode              = var.mode
    cluster           = var.cluster
    nodes             = var.nodes
    servers           = var.servers
    sync_mode         = var.sync_mode
    server_users      = var.server_users
    instance_endpoint = var.instance_endpoint
    cluster_id        = var.cluster_id
  })

  # Roles that no client logs in as: they are the cluster's, or the database's administrator.
  reserved = var.mode == "streaming" ? [
    "postgres", "komainu", "komainu_auth", "komainu_operator", "komainu_rewind", "replicator",
  ] : compact([var.administrator, "komainu"])
}
