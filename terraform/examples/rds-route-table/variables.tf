variable "region" {
  description = "Where all of it is."
  type        = string
}

variable "image_id" {
  description = "The image that ami/ made, in this region, of the architecture of the instance type."
  type        = string
}

variable "name" {
  description = "The cluster's name and the prefix of every other: several of them share an account."
  type        = string
  default     = "shop"
}

variable "cidr" {
  description = "The new VPC's range."
  type        = string
  default     = "10.20.0.0/16"
}

variable "node_instance_type" {
  description = "Of the komainu nodes."
  type        = string
  default     = "c7g.large"
}

variable "instance_class" {
  description = "Of the database's instances: one that AWS has for Multi-AZ DB clusters."
  type        = string
  default     = "db.r6gd.large"
}

variable "storage" {
  description = "Of each of the database's instances: type, GB and operations per second."
  type        = object({ type = optional(string, "io1"), size_gb = optional(number, 100), iops = optional(number, 1000) })
  default     = {}
}

variable "postgres_version" {
  description = "PostgreSQL's major version, of which the latest minor one is taken."
  type        = string
  default     = "16"
}

variable "snapshot_id" {
  description = "A snapshot of a database to begin with; null: it begins empty."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the database. Before `terraform destroy`, apply false."
  type        = bool
  default     = true
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
