variable "region" {
  description = "Where all of it is."
  type        = string
}

variable "image_id" {
  description = "The image that ami/ made, in this region, of the architecture of the instance types."
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

variable "server_instance_type" {
  description = "Of the PostgreSQL servers."
  type        = string
  default     = "r7g.large"
}

variable "volume_size_gb" {
  description = "Of each server's data volume: twice the data, and room to grow."
  type        = number
  default     = 100
}

variable "snapshot_id" {
  description = "An EBS snapshot of a primary's data volume to begin with; null: an empty database."
  type        = string
  default     = null
}

variable "sync_mode" {
  description = "Whether commits wait for a standby: off, prefer or require."
  type        = string
  default     = "prefer"
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
