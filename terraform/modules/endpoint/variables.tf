variable "name" {
  description = "Prefix of every name here."
  type        = string
}

variable "method" {
  description = "How the endpoint moves: route-table, elastic-ip or route53 (docs/escalation.md tells which to choose)."
  type        = string

  validation {
    condition     = contains(["route-table", "elastic-ip", "route53"], var.method)
    error_message = "The method is route-table, elastic-ip or route53. secondary-ip cannot leave its zone, and these modules put each node into a zone of its own."
  }
}

variable "vpc_id" {
  description = "Where the endpoint's private name is known."
  type        = string
}

variable "interfaces" {
  description = "The nodes' network interfaces, by node: those that the endpoint moves between."
  type        = map(string)
}

variable "address" {
  description = "For route-table: an IPv4 address outside of the VPC's range that nobody uses."
  type        = string
  default     = "192.0.2.10"

  validation {
    condition     = can(cidrhost("${var.address}/32", 0))
    error_message = "The address is a plain IPv4 address, such as 192.0.2.10."
  }
}

variable "route_tables" {
  description = "For route-table: the tables of all subnets with clients, by a name of your choice each."
  type        = map(string)
  default     = {}

  validation {
    condition     = var.method != "route-table" || length(var.route_tables) > 0
    error_message = "The method route-table needs at least one route table: that of the applications' subnets."
  }
}

variable "domain" {
  description = "A private zone of this name is made and holds the endpoint's name; null: NAME.internal."
  type        = string
  default     = null
}

variable "zone_id" {
  description = "A hosted zone of yours instead, for which `domain` is then the name; null: one is made."
  type        = string
  default     = null

  validation {
    condition     = var.zone_id == null || var.domain != null
    error_message = "With zone_id, domain must be given: the zone's name."
  }
}

variable "label" {
  description = "The endpoint's name within the domain."
  type        = string
  default     = "app"
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
