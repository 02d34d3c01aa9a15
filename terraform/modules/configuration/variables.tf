variable "cluster" {
  description = "The cluster's name, which is in its certificates."
  type        = string
}

variable "nodes" {
  description = "The komainu nodes by id: address and availability zone."
  type        = map(object({ host = string, zone = string }))

  validation {
    condition     = contains([3, 5], length(var.nodes))
    error_message = "Three nodes, or five: a majority of two is both."
  }
}

variable "servers" {
  description = "The PostgreSQL servers by id: address, and availability zone where it is known."
  type        = map(object({ host = string, zone = optional(string) }))

  validation {
    condition     = length(var.servers) > 0 && alltrue([for id in keys(var.servers) : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", id))])
    error_message = "At least one server; ids have lower-case letters, digits and inner hyphens, since the agents' certificates are called by them."
  }
}

variable "mode" {
  description = "Who makes the primary: streaming (komainu, of servers on EC2), rds or aurora (AWS)."
  type        = string
  default     = "streaming"

  validation {
    condition     = contains(["streaming", "rds", "aurora"], var.mode)
    error_message = "mode is streaming, rds or aurora."
  }
}

variable "cluster_id" {
  description = "For rds and aurora: the cluster whose instances the nodes ask RDS for; the servers that are given are where they begin."
  type        = string
  default     = null

  validation {
    condition     = var.mode != "streaming" || var.cluster_id == null
    error_message = "cluster_id is for the modes rds and aurora."
  }
}

variable "instance_endpoint" {
  description = "For aurora: each instance's endpoint with ? for its name: output `instance_endpoint` of the module aurora."
  type        = string
  default     = null

  validation {
    condition     = (var.mode == "aurora") == (var.instance_endpoint != null)
    error_message = "instance_endpoint is given with the mode aurora, and with no other."
  }
}

variable "server_users" {
  description = "For rds and aurora: roles whose passwords AWS gives, by secret, or by IAM token where secret_arn is null: output `server_users` of the modules rds and aurora."
  type        = list(object({ name = string, secret_arn = optional(string) }))
  default     = []

  validation {
    condition     = var.mode == "streaming" || contains(var.server_users[*].name, "komainu")
    error_message = "RDS and Aurora need komainu among server_users: the role that looks at the servers has no other password there."
  }
}

variable "administrator" {
  description = "For rds and aurora: the master user, which nobody logs in as at the nodes."
  type        = string
  default     = null
}

variable "endpoint" {
  description = "The [[endpoint]] section: output `toml` of the module endpoint."
  type        = string
}

variable "port" {
  description = "Where clients connect."
  type        = number
  default     = 5432
}

variable "sync_mode" {
  description = "Whether commits wait for a standby: off, prefer or require (docs/configuration.md)."
  type        = string
  default     = "prefer"

  validation {
    condition     = contains(["off", "prefer", "require"], var.sync_mode)
    error_message = "sync_mode is off, prefer or require."
  }
}

variable "metric_namespace" {
  description = "CloudWatch's namespace of the nodes' metrics: as in the modules iam and observability."
  type        = string
  default     = "komainu"
}

variable "extra" {
  description = "Further sections of komainu's configuration, as TOML: [pool], [split], …"
  type        = string
  default     = ""
}
