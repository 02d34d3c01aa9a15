variables {
  name                   = "shop"
  vpc_id                 = "vpc-1"
  subnets                = { a = { id = "subnet-1", zone = "z1" }, b = { id = "subnet-2", zone = "z2" }, c = { id = "subnet-3", zone = "z3" } }
  node_security_group_id = "sg-nodes"
}

run "three_instances_by_their_own_names" {
  assert {
    condition     = { for id, server in output.servers : id => replace(server.host, "/^[^.]+\\./", "") } == { for number in [1, 2, 3] : "shop-instance-${number}" => "abc123.eu-central-1.rds.amazonaws.com" }
    error_message = "The instances are called otherwise."
  }
  assert {
    condition     = alltrue([for id, server in output.servers : startswith(server.host, "${id}.")]) && output.administrator.host == "shop.cluster-abc123.eu-central-1.rds.amazonaws.com"
    error_message = "An instance is reached by another's name."
  }
}

run "one_role_by_token_and_one_by_secret" {
  assert {
    condition     = length(output.database_user_arns) == 1 && can(regex(":dbuser:cluster-[0-9A-F]+/komainu$", output.database_user_arns[0]))
    error_message = "Nodes may log in as somebody else, or elsewhere."
  }
  assert {
    condition     = { for user in output.server_users : user.name => user.secret_arn } == { komainu = null, app = output.application_secret_arn }
    error_message = "The nodes take the passwords from elsewhere."
  }
}
