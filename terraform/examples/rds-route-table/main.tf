# A VPC of its own with three nodes before an RDS Multi-AZ DB cluster, and an address that moves by route tables.
# Nothing in it has a way to or from the internet.

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
  instance_types = [var.node_instance_type]
  tags           = var.tags

  more_interface_endpoints = { rds = 2 }
}

module "endpoint" {
  source = "../../modules/endpoint"

  name         = var.name
  method       = "route-table"
  vpc_id       = module.network.vpc_id
  interfaces   = module.nodes.interfaces
  route_tables = { applications = module.network.route_tables["applications"] }
  tags         = var.tags
}

module "configuration" {
  source = "../../modules/configuration"

  mode          = "rds"
  cluster       = var.name
  cluster_id    = module.rds.cluster.id
  nodes         = module.nodes.nodes
  servers       = module.rds.servers
  server_users  = module.rds.server_users
  administrator = module.rds.administrator.name
  endpoint      = module.endpoint.toml
}

module "node_iam" {
  source = "../../modules/iam"

  name                  = var.name
  kind                  = "node"
  members               = { for id, arn in module.nodes.secret_arns : id => { secret_arns = [arn] } }
  statements            = module.endpoint.statements
  role_secret_arns      = [module.rds.application_secret_arn]
  database_user_arns    = module.rds.database_user_arns
  database_cluster_arns = [module.rds.cluster.arn]
  log_group_arn         = module.observability.log_group_arn
  tags                  = var.tags
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
  source_dest_check        = false
  host_addresses           = module.endpoint.host_addresses
  server_security_group_id = module.rds.security_group_id
  server_ports             = [5432]
  api                      = module.network.api
  log_group                = module.observability.log_group
  tags                     = var.tags
}

module "rds" {
  source = "../../modules/rds"

  name                   = var.name
  vpc_id                 = module.network.vpc_id
  subnets                = module.network.server_subnets
  instance_class         = var.instance_class
  storage                = var.storage
  postgres_version       = var.postgres_version
  node_security_group_id = module.nodes.security_group_id
  snapshot_id            = var.snapshot_id
  deletion_protection    = var.deletion_protection
  tags                   = var.tags
}

module "observability" {
  source = "../../modules/observability"

  name            = var.name
  instances       = { for id, instance in module.nodes.instance_ids : "node-${id}" => instance }
  nodes           = keys(module.nodes.instance_ids)
  servers         = keys(module.rds.servers)
  databases       = keys(module.rds.servers)
  endpoints       = [module.endpoint.name]
  managed         = true
  node_role_arns  = values(module.node_iam.role_arns)
  watched         = module.endpoint.watched
  alarm_topic_arn = var.alarm_topic_arn
  tags            = var.tags
}
