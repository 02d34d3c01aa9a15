variable "name" {
  description = "Prefix of every name here, and the cluster's name."
  type        = string
}

variable "instances" {
  description = "Instance ids by a name for the alarm: those of the modules nodes and postgres-ec2."
  type        = map(string)
}

variable "nodes" {
  description = "Ids of the komainu nodes."
  type        = list(string)

  validation {
    condition     = contains([3, 5], length(var.nodes))
    error_message = "Three nodes, or five: an alarm looks at ten metrics at the most, two of each node."
  }
}

variable "servers" {
  description = "Ids of the PostgreSQL servers."
  type        = list(string)
}

variable "managed" {
  description = "Whether the servers are RDS's or Aurora's: the nodes ask AWS which there are, and no agent makes a standby again."
  type        = bool
  default     = false
}

variable "databases" {
  description = "RDS instances whose storage does not grow by itself."
  type        = set(string)
  default     = []
}

variable "storage_left_gb" {
  description = "How little of it is too little."
  type        = number
  default     = 10
}

variable "endpoints" {
  description = "Names of the endpoints, as in the configuration: output `name` of the module endpoint."
  type        = list(string)
}

variable "lag_seconds" {
  description = "How far a standby may be behind."
  type        = number
  default     = 30
}

variable "node_role_arns" {
  description = "The nodes' roles: whoever else changes the endpoint is told of."
  type        = list(string)
}

variable "watched" {
  description = "What nobody else should change: output of the module endpoint."
  type = object({
    source    = string
    events    = list(string)
    parameter = string
    ids       = list(string)
    region    = optional(string)
  })
}

variable "alarm_topic_arn" {
  description = "An SNS topic for alarms; null: they only change colour. For the alarm of foreign changes its policy must let events.amazonaws.com publish."
  type        = string
  default     = null
}

variable "reboot_hung_instances" {
  description = "Whether an instance whose operating system does not answer AWS's checks for three minutes is rebooted."
  type        = bool
  default     = true
}

variable "permissions_boundary" {
  description = "ARN of a policy that bounds the one role that is made here, for a record's foreign changes; null: none."
  type        = string
  default     = null
}

variable "retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 90
}

variable "kms_key_arn" {
  description = "A key of yours for the log group, which its policy must let logs.REGION.amazonaws.com use; null: AWS's own encryption."
  type        = string
  default     = null
}

variable "metric_namespace" {
  description = "Where the alarms' metrics are: as in the module iam, and in the image."
  type        = string
  default     = "komainu"
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
