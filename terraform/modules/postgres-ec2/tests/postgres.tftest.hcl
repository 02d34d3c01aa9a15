variables {
  name                   = "shop"
  vpc_id                 = "vpc-1"
  subnets                = { pg1 = { id = "subnet-1", zone = "z1" }, pg2 = { id = "subnet-2", zone = "z2" }, pg3 = { id = "subnet-3", zone = "z3" } }
  image_id               = "ami-1"
  instance_profiles      = { pg1 = "p1", pg2 = "p2", pg3 = "p3" }
  configurations         = { pg1 = "# 1", pg2 = "# 2", pg3 = "# 3" }
  node_security_group_id = "sg-nodes"
  api                    = { security_group_ids = { endpoints = "sg-endpoints" } }
}

run "one_founder" {
  assert {
    condition     = [for instance in aws_instance.this : jsondecode(instance.user_data).komainu.id if jsondecode(instance.user_data).komainu.founder] == ["pg1"]
    error_message = "Not exactly one server may found the database."
  }
  assert {
    condition     = keys(output.member_statements) == ["pg1"] && output.member_statements["pg1"][0].Resource == ["arn:aws:ssm:eu-central-1:111122223333:parameter/komainu/shop/founded"]
    error_message = "Others than the founder may say that the database is founded, or more than that."
  }
  assert {
    condition     = alltrue([for id, instance in aws_instance.this : length(jsondecode(instance.user_data).komainu.others) == 2])
    error_message = "A server does not know the others."
  }
}

run "data_is_encrypted_and_kept" {
  assert {
    condition     = alltrue([for volume in aws_ebs_volume.this : volume.encrypted && volume.final_snapshot])
    error_message = "A data volume is not encrypted, or goes without a snapshot."
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

run "reached_by_nodes_and_servers_only" {
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.nodes : rule.referenced_security_group_id == "sg-nodes"]) && toset([for rule in aws_vpc_security_group_ingress_rule.nodes : rule.from_port]) == toset([5432, 7401])
    error_message = "Somebody else reaches a server, or the nodes do not."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.replication.referenced_security_group_id == aws_security_group.this.id
    error_message = "Replication is open to others."
  }
}

run "refuses_a_role_of_the_cluster_as_the_applications" {
  command = plan

  variables {
    database = "replicator"
  }

  expect_failures = [var.database]
}

run "refuses_servers_in_one_zone" {
  command = plan

  variables {
    subnets = { pg1 = { id = "subnet-1", zone = "z1" }, pg2 = { id = "subnet-2", zone = "z1" } }
  }

  expect_failures = [var.subnets]
}
