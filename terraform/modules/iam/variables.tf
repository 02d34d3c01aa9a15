variable "name" {
  description = "Prefix of every name here."
  type        = string
}

variable "kind" {
  description = "What the instances are: node or server. Part of their names."
  type        = string
}

variable "members" {
  description = "One role is made for each: what it may read, so that no instance can read another's key."
  type = map(object({
    secret_arns = list(string)
  }))
}

variable "member_statements" {
  description = "Policy statements of single members, by member."
  type        = any
  default     = {}
}

variable "statements" {
  description = "Policy statements that all of them get, such as those of the endpoint."
  type        = any
  default     = []
}

variable "log_group_arn" {
  description = "The log group they write to; null: none."
  type        = string
  default     = null
}

variable "metric_namespace" {
  description = "The CloudWatch namespace they may put metrics into."
  type        = string
  default     = "komainu"
}

variable "kms_key_arn" {
  description = "The key that the secrets are encrypted with; null: the account's aws/secretsmanager, which needs no permission."
  type        = string
  default     = null
}

variable "session_manager" {
  description = "Whether Session Manager may open a session on them, the only way in."
  type        = bool
  default     = true
}

variable "permissions_boundary" {
  description = "ARN of a boundary that the account demands of roles."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
