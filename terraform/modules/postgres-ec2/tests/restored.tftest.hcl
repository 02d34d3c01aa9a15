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
