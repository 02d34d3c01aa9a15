variables {
  name         = "shop"
  vpc_id       = "vpc-1"
  interfaces   = { a = "eni-a", b = "eni-b", c = "eni-c" }
  route_tables = { applications = "rtb-1" }
}

run "route_table" {
  variables {
    method = "route-table"
  }

  assert {
    condition     = aws_route.this["applications"].destination_cidr_block == "192.0.2.10/32" && aws_route.this["applications"].network_interface_id == "eni-a"
    error_message = "The route does not lead to a node at first."
  }
  assert {
    condition     = one([for statement in output.statements : statement if contains(statement.Action, "ec2:ReplaceRoute")]).Resource == ["arn:aws:ec2:eu-central-1:111122223333:route-table/rtb-1"]
    error_message = "The nodes may change other tables."
  }
  assert {
    condition     = output.host == "app.shop.internal" && one(aws_route53_record.this[0].records) == "192.0.2.10"
    error_message = "The address has no name."
  }
  assert {
    condition     = output.host_addresses == ["192.0.2.10/32"] && length(aws_eip.this) == 0
    error_message = "The nodes do not have the address, or there is one more."
  }

  assert {
    condition     = toset(flatten([for statement in output.statements : statement.Action])) == toset(["ec2:DescribeRouteTables", "ec2:DescribeNetworkInterfaces", "servicequotas:GetServiceQuota", "ec2:CreateRoute", "ec2:ReplaceRoute"])
    error_message = "The nodes may do something else than see the endpoint and what it may be limited by, and move it."
  }
}

# The stub's way to say that the zone's networks are others than were given here.
run "networks_that_were_associated_stay" {
  variables {
    method = "route-table"
    vpc_id = "vpc-2"
  }

  assert {
    condition     = one(aws_route53_zone.this[0].vpc).vpc_id == "vpc-1"
    error_message = "A network that was associated elsewhere loses the name."
  }
}

run "elastic_ip" {
  variables {
    method = "elastic-ip"
  }

  assert {
    condition = toset(one([for statement in output.statements : statement if contains(statement.Action, "ec2:AssociateAddress")]).Resource) == toset([
      "arn:aws:ec2:eu-central-1:111122223333:elastic-ip/${aws_eip.this[0].allocation_id}",
      "arn:aws:ec2:eu-central-1:111122223333:network-interface/eni-a",
      "arn:aws:ec2:eu-central-1:111122223333:network-interface/eni-b",
      "arn:aws:ec2:eu-central-1:111122223333:network-interface/eni-c",
    ])
    error_message = "The nodes may move other addresses, or to other interfaces."
  }
  assert {
    condition     = output.address == aws_eip.this[0].public_ip && one(aws_route53_record.this[0].records) == aws_eip.this[0].public_ip
    error_message = "The address has no name."
  }
  assert {
    condition     = length(output.host_addresses) == 0 && length(aws_route.this) == 0
    error_message = "An Elastic IP is on no host."
  }

  assert {
    condition     = toset(flatten([for statement in output.statements : statement.Action])) == toset(["ec2:DescribeAddresses", "ec2:DescribeAccountAttributes", "ec2:AssociateAddress", "ec2:DisassociateAddress"])
    error_message = "The nodes may do something else than see the endpoint and what it may be limited by, and move it."
  }
}

run "route53" {
  variables {
    method = "route53"
  }

  assert {
    condition     = length(aws_route53_record.this) == 0 && aws_route53_zone.this[0].force_destroy
    error_message = "The record is komainu's, and must not keep the zone."
  }
  assert {
    condition = one([for statement in output.statements : statement if contains(statement.Action, "route53:ChangeResourceRecordSets")]).Condition["ForAllValues:StringEquals"] == {
      "route53:ChangeResourceRecordSetsNormalizedRecordNames" = ["app.shop.internal", "_komainu.app.shop.internal"]
      "route53:ChangeResourceRecordSetsRecordTypes"           = ["A", "AAAA", "TXT"]
    }
    error_message = "The nodes may change other records."
  }
  assert {
    condition     = one([for statement in output.statements : statement if contains(statement.Action, "route53:ChangeResourceRecordSets")]).Resource == ["arn:aws:route53:::hostedzone/${aws_route53_zone.this[0].zone_id}"]
    error_message = "The nodes may change other zones."
  }

  assert {
    condition     = toset(flatten([for statement in output.statements : statement.Action])) == toset(["route53:ListResourceRecordSets", "route53:GetHostedZoneLimit", "route53:ChangeResourceRecordSets", "route53:GetChange"])
    error_message = "The nodes may do something else than see the endpoint and what it may be limited by, and move it."
  }
}

run "a_zone_of_yours" {
  variables {
    method  = "route53"
    zone_id = "Z1"
    domain  = "db.example.org"
  }

  assert {
    condition     = length(aws_route53_zone.this) == 0 && output.host == "app.db.example.org" && strcontains(output.toml, "hosted_zone_id = \"Z1\"")
    error_message = "Another zone was made."
  }
}

run "refuses_a_method_that_cannot_leave_its_zone" {
  command = plan

  variables {
    method = "secondary-ip"
  }

  expect_failures = [var.method]
}

run "refuses_no_tables" {
  command = plan

  variables {
    method       = "route-table"
    route_tables = {}
  }

  expect_failures = [var.route_tables]
}
