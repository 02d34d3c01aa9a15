variable "name" {
  description = "Prefix of every name here, and the cluster's name: lower-case letters, digits and inner hyphens."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", var.name))
    error_message = "The name has 1 to 20 lower-case letters, digits and inner hyphens: it is part of certificates and of names that AWS limits."
  }
}

variable "vpc_id" {
  description = "Where the nodes are."
  type        = string
}

variable "subnets" {
  description = "One for each node, by its id, in three zones: { a = { id, zone }, b = …, c = … }."
  type        = map(object({ id = string, zone = string }))

  validation {
    condition     = length(var.subnets) == 3 && length(distinct([for subnet in var.subnets : subnet.zone])) == 3
    error_message = "Three nodes in three zones: the cluster survives the loss of one zone, and no more of them in one."
  }
  validation {
    condition     = alltrue([for id in keys(var.subnets) : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", id))])
    error_message = "A node's id has lower-case letters, digits and inner hyphens: its certificate is called by it."
  }
}

variable "image_id" {
  description = "An image made by ami/ of this repository, of the instance type's architecture."
  type        = string

  validation {
    condition     = startswith(var.image_id, "ami-")
    error_message = "An image's id begins with ami-; packer prints it at the end of a build."
  }
}

variable "instance_type" {
  description = "The nodes forward everything; memory hardly matters. Its network bandwidth is the limit."
  type        = string
  default     = "c7g.large"
}

variable "instance_profiles" {
  description = "By node: output of the module iam."
  type        = map(string)
}

variable "configurations" {
  description = "komainu.toml by node: output `nodes` of the module configuration."
  type        = map(string)
}

variable "pool_hba" {
  description = "pool_hba.conf of every node: output of the module configuration."
  type        = string
}

variable "source_dest_check" {
  description = "false for the method route-table: the nodes take what is addressed to the endpoint."
  type        = bool
}

variable "host_addresses" {
  description = "Addresses for lo: output of the module endpoint."
  type        = list(string)
  default     = []
}

variable "port" {
  description = "Where clients connect."
  type        = number
  default     = 5432
}

variable "client_security_group_ids" {
  description = "Security groups of applications, by a name of your choice each."
  type        = map(string)
  default     = {}
}

variable "client_cidrs" {
  description = "Ranges of clients that no security group tells, such as another network's."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && !endswith(cidr, "/0")])
    error_message = "Ranges such as 203.0.113.0/24. The whole internet is none: a database's port is tried all day."
  }
}

variable "server_security_group_id" {
  description = "The database servers' security group."
  type        = string
}

variable "server_ports" {
  description = "What nodes connect to on the servers: PostgreSQL, and the agent."
  type        = set(number)
  default     = [5432, 7401]
}

variable "api" {
  description = "How AWS is reached: output `api` of the module network, or in a network of yours the same of your own."
  type = object({
    security_group_ids = optional(map(string), {})
    prefix_list_ids    = optional(map(string), {})
    cidrs              = optional(map(string), {})
  })
}

variable "volume_size_gb" {
  description = "Of the volume for the cluster's log and the node's own log files."
  type        = number
  default     = 10
}

variable "log_group" {
  description = "Name of the log group; null: the log stays on the node."
  type        = string
  default     = null
}

variable "kms_key_arn" {
  description = "A key of yours for volumes and secrets; null: the account's own of EBS and Secrets Manager. Volumes keep the one that they were made with."
  type        = string
  default     = null
}

variable "secret_recovery_days" {
  description = "How long a deleted secret can be brought back: 0, or 7 to 30."
  type        = number
  default     = 7
}

variable "termination_protection" {
  description = "Whether the API refuses to terminate a node. Terraform cannot replace or destroy them then."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
