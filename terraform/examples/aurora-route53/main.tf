# A VPC of its own with three nodes before an Aurora cluster, and a private name that leads to one of the nodes.
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

  name             = var.name
  cidr             = var.cidr
  instance_types   = [var.node_instance_type]
  route53_endpoint = true
  tags             = var.tags

  more_interface_endpoints = { rds = 2 }
}

module "endpoint" {
  source = "../../modules/endpoint"

  name       = var.name
  method     = "route53"
  vpc_id     = module.network.vpc_id
  interfaces = module.nodes.interfaces
  tags       = var.tags
}

module "configuration" {
  source = "../../modules/configuration"

  mode              = "aurora"
  cluster           = var.name
  cluster_id        = module.aurora.cluster.id
  nodes             = module.nodes.nodes
  servers           = module.aurora.servers
  instance_endpoint = module.aurora.instance_endpoint
  server_users      = module.aurora.server_users
  administrator     = module.aurora.administrator.name
  endpoint          = module.endpoint.toml
}

module "node_iam" {
  source = "../../modules/iam"

  name                  = var.name
  kind                  = "node"
  members               = { for id, arn in module.nodes.secret_arns : id => { secret_arns = [arn] } }
  statements            = module.endpoint.statements
  role_secret_arns      = [module.aurora.application_secret_arn]
  database_user_arns    = module.aurora.database_user_arns
  database_cluster_arns = [module.aurora.cluster.arn]
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
  source_dest_check        = true
  server_security_group_id = module.aurora.security_group_id
  server_ports             = [5432]
  api                      = module.network.api
  log_group                = module.observability.log_group
  tags                     = var.tags
}

module "aurora" {
  source = "../../modules/aurora"

  name                   = var.name
  vpc_id                 = module.network.vpc_id
  subnets                = module.network.server_subnets
  instance_class         = var.instance_class
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
  servers         = keys(module.aurora.servers)
  endpoints       = [module.endpoint.name]
  managed         = true
  node_role_arns  = values(module.node_iam.role_arns)
  watched         = module.endpoint.watched
  alarm_topic_arn = var.alarm_topic_arn
  tags            = var.tags
}
