variables {
  name                     = "shop"
  vpc_id                   = "vpc-1"
  subnets                  = { a = { id = "subnet-1", zone = "z1" }, b = { id = "subnet-2", zone = "z2" }, c = { id = "subnet-3", zone = "z3" } }
  image_id                 = "ami-1"
  instance_profiles        = { a = "pa", b = "pb", c = "pc" }
  configurations           = { a = "# a", b = "# b", c = "# c" }
  pool_hba                 = "hostssl all all all scram-sha-256"
  source_dest_check        = false
  server_security_group_id = "sg-servers"
  api                      = { security_group_ids = { endpoints = "sg-endpoints" }, prefix_list_ids = { s3 = "pl-1" } }
}

run "an_instance_in_each_zone" {
  assert {
    condition     = toset([for interface in aws_network_interface.this : interface.subnet_id]) == toset(["subnet-1", "subnet-2", "subnet-3"])
    error_message = "The nodes are not in three subnets."
  }
  assert {
    condition     = alltrue([for id, instance in aws_instance.this : one(instance.primary_network_interface).network_interface_id == aws_network_interface.this[id].id])
    error_message = "An instance has an interface that goes away with it."
  }
  assert {
    condition     = alltrue([for id, volume in aws_ebs_volume.this : volume.encrypted && volume.availability_zone == var.subnets[id].zone])
    error_message = "A volume is not encrypted, or elsewhere."
  }
  assert {
    condition     = alltrue([for instance in aws_instance.this : one(instance.root_block_device).encrypted])
    error_message = "A root volume is not encrypted."
  }
}

run "no_ssh_and_imdsv2_only" {
  assert {
    condition     = alltrue([for instance in aws_instance.this : one(instance.metadata_options).http_tokens == "required" && one(instance.metadata_options).http_put_response_hop_limit == 1])
    error_message = "The metadata answer without a token, or further than to the instance."
  }
  assert {
    condition     = alltrue([for instance in aws_instance.this : instance.key_name == null])
    error_message = "An instance has an SSH key."
  }
}

run "source_dest_check_as_the_method_needs" {
  assert {
    condition     = alltrue([for interface in aws_network_interface.this : !interface.source_dest_check])
    error_message = "AWS would drop what is for the endpoint's address."
  }
}

run "open_to_applications_only" {
  assert {
    condition     = aws_vpc_security_group_ingress_rule.clients["clients"].referenced_security_group_id == aws_security_group.clients.id
    error_message = "The applications' group is not let in."
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.client_cidrs) == 0
    error_message = "A range is let in that nobody named."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.peers.referenced_security_group_id == aws_security_group.this.id && aws_vpc_security_group_ingress_rule.peers.from_port == 7400
    error_message = "The peers' port is open to others."
  }
  assert {
    condition     = toset([for rule in aws_vpc_security_group_egress_rule.servers : rule.to_port]) == toset([5432, 7401])
    error_message = "The nodes do not reach servers and agents."
  }
}

run "clients_reach_the_endpoint_s_address" {
  variables {
    host_addresses = ["192.0.2.10/32"]
  }

  assert {
    condition     = [for rule in aws_vpc_security_group_egress_rule.clients_to_endpoint : "${rule.cidr_ipv4} ${rule.from_port}"] == ["192.0.2.10/32 5432"]
    error_message = "What is for the endpoint is dropped on its way out."
  }
}

run "refuses_a_name_that_no_certificate_may_have" {
  command = plan

  variables {
    name = "Shop_1"
  }

  expect_failures = [var.name]
}

run "refuses_the_whole_internet" {
  command = plan

  variables {
    client_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.client_cidrs]
}

run "refuses_two_nodes_in_a_zone" {
  command = plan

  variables {
    subnets = { a = { id = "subnet-1", zone = "z1" }, b = { id = "subnet-2", zone = "z1" }, c = { id = "subnet-3", zone = "z3" } }
  }

  expect_failures = [var.subnets]
}

run "user_data_names_no_secret" {
  assert {
    condition     = alltrue([for instance in aws_instance.this : !can(regex("PRIVATE KEY|password *=", instance.user_data))])
    error_message = "A secret is in the user data."
  }
  assert {
    condition     = alltrue([for id, instance in aws_instance.this : jsondecode(instance.user_data).komainu.secret == aws_secretsmanager_secret.this[id].arn])
    error_message = "A node is sent to another's secret."
  }
}
