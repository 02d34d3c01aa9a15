variable "name" {
  description = "Prefix of every name here, and the cluster's name."
  type        = string
}

variable "vpc_id" {
  description = "Where the servers are."
  type        = string
}

variable "subnets" {
  description = "One for each server, by its id: { pg1 = { id, zone }, … }. The first by name begins as the primary."
  type        = map(object({ id = string, zone = string }))

  validation {
    condition     = length(var.subnets) >= 2 && length(distinct([for subnet in var.subnets : subnet.zone])) == length(var.subnets)
    error_message = "Two servers or more, each in a zone of its own."
  }
  validation {
    condition     = alltrue([for id in keys(var.subnets) : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", id))])
    error_message = "A server's id has lower-case letters, digits and inner hyphens: its agent's certificate is called by it."
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
  description = "The same for all, since any of them may become the primary."
  type        = string
  default     = "r7g.large"
}

variable "instance_profiles" {
  description = "By server: output of the module iam."
  type        = map(string)
}

variable "configurations" {
  description = "komainu.toml of the agents, by server: output `servers` of the module configuration."
  type        = map(string)
}

variable "settings" {
  description = "Further settings of postgresql.conf, such as { shared_buffers = \"4GB\" }. Those that replication needs are set."
  type        = map(string)
  default     = {}
}

variable "database" {
  description = "The applications' database and its owner, made at the founding. Both are called so."
  type        = string
  default     = "app"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_]{0,62}$", var.database)) && !contains(["postgres", "komainu", "komainu_auth", "komainu_operator", "komainu_rewind", "replicator", "template0", "template1"], var.database)
    error_message = "Lower-case letters, digits and underscores; not postgres, nor one of the cluster's own roles."
  }
}

variable "node_security_group_id" {
  description = "The komainu nodes' security group: output of the module nodes."
  type        = string
}

variable "api" {
  description = "How AWS is reached: output `api` of the module network, or in a network of yours the same of your own."
  type = object({
    security_group_ids = optional(map(string), {})
    prefix_list_ids    = optional(map(string), {})
    cidrs              = optional(map(string), {})
  })
}

variable "volume" {
  description = "Of the data of each server. A rebuild puts a second copy beside the first: twice the data, and room to grow."
  type = object({
    size_gb    = optional(number, 100)
    iops       = optional(number, 3000)
    throughput = optional(number, 125)
  })
  default = {}
}

variable "founder_snapshot_id" {
  description = "An EBS snapshot of a primary's data volume to begin with, for the first server; null: a database is founded. Later changes of it do nothing."
  type        = string
  default     = null
}

variable "final_snapshots" {
  description = "Whether `terraform destroy` keeps a snapshot of each data volume."
  type        = bool
  default     = true
}

variable "log_group" {
  description = "Name of the log group; null: the logs stay on the servers."
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
  description = "Whether the API refuses to terminate a server. Terraform cannot replace or destroy them then."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
