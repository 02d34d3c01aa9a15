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
  description = "The PostgreSQL servers by id: address and availability zone."
  type        = map(object({ host = string, zone = string }))

  validation {
    condition     = length(var.servers) > 0 && alltrue([for id in keys(var.servers) : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", id))])
    error_message = "At least one server; ids have lower-case letters, digits and inner hyphens, since the agents' certificates are called by them."
  }
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
