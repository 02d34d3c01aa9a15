variables {
  name = "shop"
}

run "three_zones" {
  assert {
    condition     = length(distinct([for subnet in aws_subnet.this : subnet.availability_zone])) == 3
    error_message = "The subnets are not in three zones."
  }
  assert {
    condition     = alltrue([for tier in ["nodes", "servers", "applications"] : length(distinct([for letter in ["a", "b", "c"] : aws_subnet.this["${tier}-${letter}"].availability_zone])) == 3])
    error_message = "A tier has two subnets in one zone."
  }
  assert {
    condition     = length(distinct([for subnet in aws_subnet.this : subnet.cidr_block])) == 9
    error_message = "Subnets overlap."
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.this : !subnet.map_public_ip_on_launch])
    error_message = "A subnet gives public addresses away."
  }
}

run "no_internet_unless_wanted" {
  assert {
    condition     = length(aws_internet_gateway.this) == 0 && length(aws_route.internet) == 0
    error_message = "There is a way to the internet."
  }
}

run "internet_for_nodes_only" {
  variables {
    internet = true
  }

  assert {
    condition     = aws_route.internet[0].route_table_id == aws_route_table.this["nodes"].id
    error_message = "The route to the internet is not the nodes'."
  }
}

run "the_api_that_moves_endpoints_is_in_every_zone" {
  assert {
    condition     = length(aws_vpc_endpoint.interface["ec2"].subnet_ids) == 3
    error_message = "ec2 is not reached in every zone."
  }
  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.interface : endpoint.private_dns_enabled && endpoint.security_group_ids == toset([aws_security_group.endpoints.id])])
    error_message = "An endpoint has no private name, or is open to others."
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.endpoints : rule.from_port == 443 && rule.to_port == 443 && !endswith(rule.cidr_ipv4, "/0")])
    error_message = "The endpoints take more than HTTPS from the instances' subnets."
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.endpoints) == 9
    error_message = "A subnet does not reach the endpoints."
  }
}

run "endpoints_are_for_this_account_s_credentials" {
  variables {
    more_interface_endpoints = { rds = 1, servicequotas = 1 }
    other_accounts           = ["444455556666"]
  }

  assert {
    condition = { for service, endpoint in aws_vpc_endpoint.interface : service => one(jsondecode(endpoint.policy).Statement).Condition if service != "servicequotas" } == {
      for service in ["ec2", "kms", "logs", "monitoring", "rds", "secretsmanager", "ssm", "ssmmessages"] : service => {
        StringEquals = { "aws:PrincipalAccount" = ["111122223333", "444455556666"] }
      }
    }
    error_message = "Whoever has credentials of any account may use an endpoint."
  }
  assert {
    condition     = !can(jsondecode(aws_vpc_endpoint.interface["servicequotas"].policy))
    error_message = "A service that may have no policies was given one."
  }
}

run "route_53_where_it_moves_the_endpoint" {
  variables {
    route53_endpoint = true
  }

  assert {
    condition     = aws_vpc_endpoint.route53[0].service_name == "com.amazonaws.route53" && aws_vpc_endpoint.route53[0].service_region == "us-east-1"
    error_message = "Route 53 has no regional service."
  }
  assert {
    condition     = length(aws_vpc_endpoint.route53[0].subnet_ids) == 3 && aws_vpc_endpoint.route53[0].private_dns_enabled && aws_vpc_endpoint.route53[0].security_group_ids == toset([aws_security_group.endpoints.id])
    error_message = "What moves the endpoint is not in every zone, has no private name, or is open to others."
  }
}

run "applications_do_not_reach_aws_if_not_wanted" {
  variables {
    applications_reach_aws = false
  }

  assert {
    condition     = toset([for key in keys(aws_vpc_security_group_ingress_rule.endpoints) : split("-", key)[0]]) == toset(["nodes", "servers"])
    error_message = "Applications reach the endpoints, or instances do not."
  }
}

run "zones_that_have_the_instance_types" {
  command = plan

  variables {
    instance_types = ["c7g.large", "not-in-a.large"]
  }

  assert {
    condition     = local.zones == tolist(["eu-central-1b", "eu-central-1c", "eu-central-1d"])
    error_message = "An instance cannot be where it is to be."
  }
}

run "refuses_a_type_that_two_zones_have" {
  command = plan

  variables {
    instance_types = ["not-in-a-b.large"]
  }

  expect_failures = [aws_vpc.this]
}

run "refuses_zones_without_the_type" {
  command = plan

  variables {
    instance_types = ["not-in-a.large"]
    zones          = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  }

  expect_failures = [aws_vpc.this]
}

run "refuses_two_zones" {
  command = plan

  variables {
    zones = ["eu-central-1a", "eu-central-1b"]
  }

  expect_failures = [var.zones]
}
