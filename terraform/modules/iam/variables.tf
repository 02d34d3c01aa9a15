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

variable "role_secret_arns" {
  description = "Secrets with the passwords of database roles, that all of them may read: server_user.secret_arn."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.role_secret_arns : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^*]+$", arn))])
    error_message = "Each is the ARN of one secret, without a wildcard."
  }
}

variable "database_user_arns" {
  description = "Database roles that they may log in as by IAM token: arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE_ID/ROLE, where RESOURCE_ID is the instance's (db-…) or the cluster's (cluster-…)."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.database_user_arns : can(regex("^arn:[a-z-]+:rds-db:[a-z0-9-]+:[0-9]{12}:dbuser:(db|cluster)-[A-Z0-9]+/[^*/]+$", arn))])
    error_message = "Each names one server or cluster by its resource id, and one role, without a wildcard."
  }
}

variable "database_cluster_arns" {
  description = "Clusters of RDS or Aurora of which they may ask RDS which instances they have: failover.cluster_id."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.database_cluster_arns : can(regex("^arn:[a-z-]+:rds:[a-z0-9-]+:[0-9]{12}:cluster:[^*]+$", arn))])
    error_message = "Each is the ARN of one cluster, without a wildcard."
  }
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
