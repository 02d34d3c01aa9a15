variables {
  name                   = "shop"
  vpc_id                 = "vpc-1"
  subnets                = { a = { id = "subnet-1", zone = "z1" }, b = { id = "subnet-2", zone = "z2" }, c = { id = "subnet-3", zone = "z3" } }
  node_security_group_id = "sg-nodes"
}

run "an_instance_in_each_zone" {
  assert {
    condition     = { for letter, instance in aws_rds_cluster_instance.this : letter => instance.availability_zone } == { a = "z1", b = "z2", c = "z3" }
    error_message = "The instances are not in three zones."
  }
  assert {
    condition     = length(distinct([for instance in aws_rds_cluster_instance.this : instance.promotion_tier])) == 1
    error_message = "An instance comes after the others when the writer is lost."
  }
}

run "private" {
  assert {
    condition     = alltrue([for instance in aws_rds_cluster_instance.this : !instance.publicly_accessible && instance.engine == "aurora-postgresql"])
    error_message = "An instance is reached from everywhere."
  }
}

run "each_instance_by_its_own_name" {
  assert {
    condition     = toset(keys(output.servers)) == toset(["shop-a", "shop-b", "shop-c"]) && alltrue([for id, server in output.servers : server.host == replace(output.instance_endpoint, "?", id)])
    error_message = "An instance is not reached by the template."
  }
}
