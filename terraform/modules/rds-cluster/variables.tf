variable "name" {
  description = "The cluster's name and the prefix of every other here."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]*[a-z0-9])?$", var.name)) && !strcontains(var.name, "--")
    error_message = "RDS takes names of lower-case letters, digits and single hyphens that begin with a letter."
  }
}

variable "engine" {
  description = "postgres, for a Multi-AZ DB cluster, or aurora-postgresql."
  type        = string

  validation {
    condition     = (var.engine == "postgres") == (var.each_instance != null) && contains(["postgres", "aurora-postgresql"], var.engine)
    error_message = "The engine is postgres, with each_instance, or aurora-postgresql, without."
  }
}

variable "each_instance" {
  description = "Of a Multi-AZ DB cluster: class, storage and its operations per second. An Aurora cluster's instances are resources of their own."
  type        = object({ class = string, type = string, size_gb = number, iops = number })
  default     = null
}

variable "vpc_id" {
  description = "Where the instances are."
  type        = string
}

variable "subnets" {
  description = "In three zones, by a letter each: { a = { id, zone }, b = …, c = … }."
  type        = map(object({ id = string, zone = string }))

  validation {
    condition     = length(var.subnets) == 3 && length(distinct([for subnet in var.subnets : subnet.zone])) == 3
    error_message = "Three zones: a writer in one, and in each of the others an instance that may take its place."
  }
}

variable "postgres_version" {
  description = "Major version, of which the latest minor one is taken, or a full version. Later upgrades are AWS's (minor) and yours (major), not terraform's."
  type        = string
}

variable "settings" {
  description = "Further parameters of the cluster, such as { log_min_duration_statement = \"500\" }. They take effect with a restart."
  type        = map(string)
}

variable "database" {
  description = "The applications' database, and the role that owns it. Both are called so."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9_]{0,62}$", var.database)) && !contains(["postgres", "komainu", "rdsadmin", "template0", "template1"], var.database)
    error_message = "Lower-case letters, digits and underscores, a letter first; not postgres, komainu or rdsadmin."
  }
}

variable "node_security_group_id" {
  description = "The komainu nodes' security group: output of the module nodes."
  type        = string
}

variable "snapshot_id" {
  description = "A snapshot to restore from when the cluster is made, by name or ARN; null: it begins empty. Later changes of it do nothing."
  type        = string
}

variable "backup_days" {
  description = "How far back the cluster can be restored to any point in time: 1 to 35 days."
  type        = number
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the cluster. Before `terraform destroy`, apply false."
  type        = bool
}

variable "final_snapshot" {
  description = "Whether `terraform destroy` keeps a snapshot."
  type        = bool
}

variable "kms_key_arn" {
  description = "A key of yours for storage and secrets; null: the account's own of RDS and Secrets Manager."
  type        = string
}

variable "secret_recovery_days" {
  description = "How long a deleted secret can be brought back: 0, or 7 to 30."
  type        = number
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
}
