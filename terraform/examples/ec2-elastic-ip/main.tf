# A VPC of its own with three nodes, three PostgreSQL servers and a public address that moves between the nodes: for clients
# outside of AWS. The servers have no way to or from the internet; a node has one while the address is its own.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.25"
    }
  }
}

provider "aws" {
  region = var.region
}

module "network" {
  source = "../../modules/network"

  name           = var.name
  cidr           = var.cidr
  instance_types = [var.node_instance_type, var.server_instance_type]
  tags           = var.tags
  # An Elastic IP leads nowhere without.
  internet = true
}

module "endpoint" {
  source = "../../modules/endpoint"

  name       = var.name
  method     = "elastic-ip"
  vpc_id     = module.network.vpc_id
  interfaces = module.nodes.interfaces
  tags       = var.tags
}

module "configuration" {
  source = "../../modules/configuration"

  cluster   = var.name
  nodes     = module.nodes.nodes
  servers   = module.postgres.servers
  endpoint  = module.endpoint.toml
  sync_mode = var.sync_mode
}

module "node_iam" {
  source = "../../modules/iam"

  name          = var.name
  kind          = "node"
  members       = { for id, arn in module.nodes.secret_arns : id => { secret_arns = [arn] } }
  statements    = module.endpoint.statements
  log_group_arn = module.observability.log_group_arn
  tags          = var.tags
}

module "nodes" {
  source = "../../modules/nodes"

  name                     = var.name
  vpc_id                   = module.network.vpc_id
  subnets                  = module.network.node_subnets
  image_id                 = var.image_id
  instance_type            = var.node_instance_type
  instance_profiles        = module.node_iam.instance_profiles
  configurations           = module.configuration.nodes
  pool_hba                 = module.configuration.pool_hba
  source_dest_check        = true
  client_cidrs             = var.client_cidrs
  server_security_group_id = module.postgres.security_group_id
  api                      = module.network.api
  log_group                = module.observability.log_group
  tags                     = var.tags
}

module "server_iam" {
  source = "../../modules/iam"

  name              = var.name
  kind              = "server"
  members           = { for id, arn in module.postgres.secret_arns : id => { secret_arns = [arn] } }
  member_statements = module.postgres.member_statements
  log_group_arn     = module.observability.log_group_arn
  tags              = var.tags
}

module "postgres" {
  source = "../../modules/postgres-ec2"

  name                   = var.name
  vpc_id                 = module.network.vpc_id
  subnets                = { for letter, number in { a = 1, b = 2, c = 3 } : "pg${number}" => module.network.server_subnets[letter] }
  image_id               = var.image_id
  instance_type          = var.server_instance_type
  instance_profiles      = module.server_iam.instance_profiles
  configurations         = module.configuration.servers
  node_security_group_id = module.nodes.security_group_id
  api                    = module.network.api
  founder_snapshot_id    = var.snapshot_id
  volume                 = { size_gb = var.volume_size_gb }
  log_group              = module.observability.log_group
  tags                   = var.tags
}

module "observability" {
  source = "../../modules/observability"

  name = var.name
  instances = merge(
    { for id, instance in module.nodes.instance_ids : "node-${id}" => instance },
    module.postgres.instance_ids,
  )
  nodes           = keys(module.nodes.instance_ids)
  servers         = keys(module.postgres.servers)
  endpoints       = [module.endpoint.name]
  node_role_arns  = values(module.node_iam.role_arns)
  watched         = module.endpoint.watched
  alarm_topic_arn = var.alarm_topic_arn
  tags            = var.tags
}
