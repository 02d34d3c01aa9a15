# Three nodes and three PostgreSQL servers in a VPC of yours, behind an address that moves by its route tables.
# The subnets must reach AWS already, by a NAT gateway or by endpoints of their own (README).

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

data "aws_subnet" "node" {
  for_each = toset(var.node_subnet_ids)

  id = each.value
}

data "aws_subnet" "server" {
  for_each = toset(var.server_subnet_ids)

  id = each.value
}

locals {
  vpc_id         = data.aws_subnet.node[var.node_subnet_ids[0]].vpc_id
  node_subnets   = { for index, id in var.node_subnet_ids : ["a", "b", "c"][index] => { id = id, zone = data.aws_subnet.node[id].availability_zone } }
  server_subnets = { for index, id in var.server_subnet_ids : "pg${index + 1}" => { id = id, zone = data.aws_subnet.server[id].availability_zone } }
  api            = { cidrs = { aws = var.api_cidr } }
}

module "endpoint" {
  source = "../../modules/endpoint"

  name         = var.name
  method       = "route-table"
  vpc_id       = local.vpc_id
  interfaces   = module.nodes.interfaces
  address      = var.address
  route_tables = { for id in var.client_route_table_ids : id => id }
  tags         = var.tags
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
  vpc_id                   = local.vpc_id
  subnets                  = local.node_subnets
  image_id                 = var.image_id
  instance_type            = var.node_instance_type
  instance_profiles        = module.node_iam.instance_profiles
  configurations           = module.configuration.nodes
  pool_hba                 = module.configuration.pool_hba
  source_dest_check        = false
  host_addresses           = module.endpoint.host_addresses
  client_cidrs             = var.client_cidrs
  server_security_group_id = module.postgres.security_group_id
  api                      = local.api
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
  vpc_id                 = local.vpc_id
  subnets                = local.server_subnets
  image_id               = var.image_id
  instance_type          = var.server_instance_type
  instance_profiles      = module.server_iam.instance_profiles
  configurations         = module.configuration.servers
  node_security_group_id = module.nodes.security_group_id
  api                    = local.api
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
