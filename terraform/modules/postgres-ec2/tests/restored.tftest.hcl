# A state of its own: what a volume begins with counts when it is made.

variables {
  name                   = "shop"
  vpc_id                 = "vpc-1"
  subnets                = { pg1 = { id = "subnet-1", zone = "z1" }, pg2 = { id = "subnet-2", zone = "z2" }, pg3 = { id = "subnet-3", zone = "z3" } }
  image_id               = "ami-1"
  instance_profiles      = { pg1 = "p1", pg2 = "p2", pg3 = "p3" }
  configurations         = { pg1 = "# 1", pg2 = "# 2", pg3 = "# 3" }
  node_security_group_id = "sg-nodes"
  api                    = { security_group_ids = { endpoints = "sg-endpoints" } }
  founder_snapshot_id    = "snap-1"
}

run "begins_with_a_snapshot_and_founds_nothing" {
  assert {
    condition     = { for id, volume in aws_ebs_volume.this : id => volume.snapshot_id if volume.snapshot_id != null } == { pg1 = "snap-1" }
    error_message = "Others than the founder begin with the snapshot, or it does not."
  }
  assert {
    condition     = aws_ssm_parameter.founded.value == "founded on snap-1"
    error_message = "A founder that loses the volume would found a second database."
  }
}

run "keeps_its_data_when_the_snapshot_is_no_longer_named" {
  variables {
    founder_snapshot_id = null
  }

  assert {
    condition     = aws_ebs_volume.this["pg1"].snapshot_id == "snap-1" && aws_ssm_parameter.founded.value == "founded on snap-1"
    error_message = "The volume was made anew."
  }
}

run "keeps_its_volumes_and_instances_when_a_key_or_another_type_is_named" {
  variables {
    instance_type = "r7g.2xlarge"
    kms_key_arn   = "arn:aws:kms:eu-central-1:111122223333:key/1"
  }

  assert {
    condition     = alltrue([for volume in aws_ebs_volume.this : volume.kms_key_id == null])
    error_message = "Volumes with data were made anew."
  }
  assert {
    condition     = alltrue([for instance in aws_instance.this : instance.instance_type == "r7g.large" && one(instance.root_block_device).kms_key_id == null])
    error_message = "All servers were stopped at once."
  }
}
