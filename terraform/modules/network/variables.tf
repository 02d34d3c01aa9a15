variable "name" {
  description = "Prefix of every name here, and the cluster's name."
  type        = string
}

variable "cidr" {
  description = "The VPC's range: a /16 to a /22. It is divided into sixteen parts, of which nine become subnets."
  type        = string
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 22, false)
    error_message = "The range is written as 10.20.0.0/16, from /16 to /22."
  }
}

variable "zones" {
  description = "Three availability zones; by default the region's first three that have the instance types."
  type        = list(string)
  default     = null

  validation {
    condition     = var.zones == null ? true : length(distinct(var.zones)) == 3 && length(var.zones) == 3
    error_message = "Three different zones: with fewer, the loss of one takes the majority with it."
  }
}

variable "instance_types" {
  description = "Types of the instances to come, which each of the zones must have."
  type        = list(string)
  default     = []
}

variable "internet" {
  description = "Whether the nodes' subnets have a route to the internet, as an Elastic IP needs. Nodes get no public address of their own by it."
  type        = bool
  default     = false
}

variable "interface_endpoints" {
  description = <<-EOT
    The AWS services that the instances reach without internet, and in how many zones each has an endpoint; each zone of each
    costs by the hour. A zone without one uses another's, and loses it with that zone. ec2 is what moves endpoints.
  EOT
  type        = map(number)
  default = {
    ec2            = 3
    kms            = 2
    logs           = 2
    monitoring     = 2
    secretsmanager = 2
    ssm            = 2
    ssmmessages    = 2
  }

  validation {
    condition     = alltrue([for zones in values(var.interface_endpoints) : zones >= 1 && zones <= 3])
    error_message = "Each endpoint is in one to three zones; leave out what you do not want."
  }
}

variable "more_interface_endpoints" {
  description = "Likewise, beside those: { rds = 2 } for nodes that ask RDS which instances a cluster has."
  type        = map(number)
  default     = {}
}

variable "route53_endpoint" {
  description = "Whether Route 53's API, which is in us-east-1, has an endpoint here, in all three zones: the method route53 moves the endpoint by it."
  type        = bool
  default     = false
}

variable "applications_reach_aws" {
  description = <<-EOT
    Whether the applications' subnets may use the interface endpoints, too. The names of these services lead to the endpoints
    for the whole VPC, so without it applications here reach none of them: neither their secret nor Session Manager.
  EOT
  type        = bool
  default     = true
}

variable "other_accounts" {
  description = "Accounts beside this one whose roles may be used through the interface endpoints, such as those that applications assume."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for account in var.other_accounts : can(regex("^[0-9]{12}$", account))])
    error_message = "An account is its twelve digits."
  }
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
