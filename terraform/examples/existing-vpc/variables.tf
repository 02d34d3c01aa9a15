variable "region" {
  description = "Where all of it is."
  type        = string
}

variable "image_id" {
  description = "The image that ami/ made, in this region, of the architecture of the instance types."
  type        = string
}

variable "node_subnet_ids" {
  description = "Three private subnets in three zones, for the nodes."
  type        = list(string)

  validation {
    condition     = length(var.node_subnet_ids) == 3
    error_message = "Three subnets, one in each zone."
  }
}

variable "server_subnet_ids" {
  description = "Three private subnets in three zones, for the database servers. They may be the nodes'."
  type        = list(string)

  validation {
    condition     = length(var.server_subnet_ids) == 3
    error_message = "Three subnets, one in each zone."
  }
}

variable "client_route_table_ids" {
  description = "The route tables of all subnets with clients."
  type        = list(string)
}

variable "address" {
  description = "Where clients connect: an IPv4 address outside of the VPC's range that nobody uses. Each stack in a VPC has one of its own."
  type        = string
  default     = "192.0.2.10"
}

variable "api_cidr" {
  description = "Where the instances may connect to AWS: the VPC's range if it has interface endpoints, 0.0.0.0/0 with a NAT gateway."
  type        = string
}

variable "client_cidrs" {
  description = "Clients' ranges, where no security group tells them: beside those that get the clients' group."
  type        = set(string)
  default     = []
}

variable "name" {
  description = "The cluster's name and the prefix of every other: several of them share an account."
  type        = string
  default     = "shop"
}

variable "node_instance_type" {
  description = "Of the komainu nodes."
  type        = string
  default     = "c7g.large"
}

variable "server_instance_type" {
  description = "Of the PostgreSQL servers."
  type        = string
  default     = "r7g.large"
}

variable "volume_size_gb" {
  description = "Of each server's data volume: twice the data, and room to grow."
  type        = number
  default     = 100
}

variable "snapshot_id" {
  description = "An EBS snapshot of a primary's data volume to begin with; null: an empty database."
  type        = string
  default     = null
}

variable "sync_mode" {
  description = "Whether commits wait for a standby: off, prefer or require."
  type        = string
  default     = "prefer"
}

variable "alarm_topic_arn" {
  description = "An SNS topic for alarms; null: none is told."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
