# A state of its own: what exists goes on as it was made.

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

run "made" {
  assert {
    condition     = alltrue([for instance in aws_instance.this : instance.instance_type == "c7g.large"])
    error_message = "The nodes are of another type than the default."
  }
}

run "keeps_its_volumes_and_instances_when_a_key_or_another_type_is_named" {
  variables {
    instance_type = "c7g.2xlarge"
    kms_key_arn   = "arn:aws:kms:eu-central-1:111122223333:key/1"
  }

  assert {
    condition     = alltrue([for volume in aws_ebs_volume.this : volume.kms_key_id == null])
    error_message = "The volumes with the cluster's log were made anew."
  }
  assert {
    condition     = alltrue([for instance in aws_instance.this : instance.instance_type == "c7g.large" && one(instance.root_block_device).kms_key_id == null])
    error_message = "All nodes were stopped at once."
  }
}
