variable "name" {
  description = "The Multi-AZ DB cluster's name and the prefix of every other here."
  type        = string
}

variable "vpc_id" {
  description = "Where the instances are."
  type        = string
}

variable "subnets" {
  description = "Three, in three zones: { a = { id, zone }, b = …, c = … }. AWS calls its three instances NAME-instance-1 and so on, and chooses their zones."
  type        = map(object({ id = string, zone = string }))
}

variable "instance_class" {
  description = "The same for all, since any of them may become the writer."
  type        = string
  default     = "db.r6gd.large"
}

variable "storage" {
  description = "Of each instance; 0.5 to 50 operations per second for each GB."
  type        = object({ type = optional(string, "io1"), size_gb = optional(number, 100), iops = optional(number, 1000) })
  default     = {}
}

variable "postgres_version" {
  description = "Major version, of which the latest minor one is taken, or a full version. Later upgrades are AWS's (minor) and yours (major), not terraform's."
  type        = string
  default     = "16"
}

variable "settings" {
  description = "Further parameters of the cluster, such as { log_min_duration_statement = \"500\" }. They take effect with a restart."
  type        = map(string)
  default     = {}
}

variable "database" {
  description = "The applications' database, and the role that owns it. Both are called so."
  type        = string
  default     = "app"
}

variable "node_security_group_id" {
  description = "The komainu nodes' security group: output of the module nodes."
  type        = string
}

variable "snapshot_id" {
  description = "A snapshot to restore from when the cluster is made, by name or ARN; null: it begins empty. Later changes of it do nothing."
  type        = string
  default     = null
}

variable "backup_days" {
  description = "How far back the cluster can be restored to any point in time: 1 to 35 days."
  type        = number
  default     = 7
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the cluster. Before `terraform destroy`, apply false."
  type        = bool
  default     = true
}

variable "final_snapshot" {
  description = "Whether `terraform destroy` keeps a snapshot."
  type        = bool
  default     = true
}

variable "kms_key_arn" {
  description = "A key of yours for storage and secrets; null: the account's own of RDS and Secrets Manager."
  type        = string
  default     = null
}

variable "secret_recovery_days" {
  description = "How long a deleted secret can be brought back: 0, or 7 to 30."
  type        = number
  default     = 7
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
