variables {
  cluster  = "shop"
  nodes    = { a = { host = "10.0.0.10", zone = "z1" }, b = { host = "10.0.1.10", zone = "z2" }, c = { host = "10.0.2.10", zone = "z3" } }
  servers  = { pg1 = { host = "10.0.0.20", zone = "z1" }, pg2 = { host = "10.0.1.20", zone = "z2" } }
  endpoint = "[[endpoint]]\nname = \"app\"\nmethod.elastic-ip = { allocation_id = \"eipalloc-1\" }\n"
}

run "all_share_one_text" {
  assert {
    condition     = alltrue([for text in concat(values(output.nodes), values(output.servers)) : strcontains(text, "[[server]]\nid = \"pg2\"\nhost = \"10.0.1.20\"\nzone = \"z2\"\nagent = \"10.0.1.20:7401\"\n")])
    error_message = "Somebody does not know a server."
  }
  assert {
    condition     = alltrue([for text in concat(values(output.nodes), values(output.servers)) : length(regexall("\\[\\[node\\]\\]", text)) == 3])
    error_message = "Somebody does not know a node."
  }
  assert {
    condition     = strcontains(output.nodes["b"], "cert_file = \"pki/b.crt\"") && strcontains(output.nodes["b"], "zone = \"z2\"\n")
    error_message = "Node b has another's files."
  }
}

run "everybody_s_log_is_where_the_image_sends_it_from" {
  assert {
    condition = alltrue(concat(
      [for text in values(output.nodes) : strcontains(text, "[log]\nformat = \"json\"\nfile = \"/var/log/komainu/komainu.log\"\n")],
      [for text in values(output.servers) : strcontains(text, "[log]\nformat = \"json\"\nfile = \"/var/log/komainu-agent/komainu.log\"\n")],
    ))
    error_message = "Somebody's log, and an alarm by it, does not reach CloudWatch."
  }
}

run "refuses_two_nodes" {
  command = plan

  variables {
    nodes = { a = { host = "10.0.0.10", zone = "z1" }, b = { host = "10.0.1.10", zone = "z2" } }
  }

  expect_failures = [var.nodes]
}

run "before_aurora_nothing_of_a_server_s_host" {
  variables {
    mode              = "aurora"
    servers           = { shop-a = { host = "shop-a.abc123.eu-central-1.rds.amazonaws.com", zone = "z1" } }
    instance_endpoint = "?.abc123.eu-central-1.rds.amazonaws.com"
    cluster_id        = "shop"
    administrator     = "postgres"
    server_users      = [{ name = "komainu" }, { name = "app", secret_arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop/app-x" }]
  }

  assert {
    condition     = alltrue([for text in values(output.nodes) : strcontains(text, "[failover]\nmode = \"aurora\"\ncluster_id = \"shop\"\n\n[dns]\n") && strcontains(text, "instance_endpoint = \"?.abc123.eu-central-1.rds.amazonaws.com\"")])
    error_message = "A node does not know that AWS makes the writer, or where instances are."
  }
  assert {
    condition     = alltrue([for text in values(output.nodes) : strcontains(text, "name = \"komainu\"\niam_token = true\n") && strcontains(text, "name = \"app\"\nsecret_arn = \"arn:aws:")])
    error_message = "A node does not know how to log in."
  }
  assert {
    condition     = alltrue([for text in values(output.nodes) : !strcontains(text, "agent") && !strcontains(text, "[auth.query]")]) && length(output.servers) == 0
    error_message = "There is talk of agents, or of pg_authid."
  }
  assert {
    condition     = can(regex("(?m)^host +all +postgres,komainu +all +reject$", output.pool_hba))
    error_message = "The administrator may log in at the nodes."
  }
}

run "refuses_aurora_without_the_role_that_looks" {
  command = plan

  variables {
    mode              = "aurora"
    instance_endpoint = "?.abc123.eu-central-1.rds.amazonaws.com"
  }

  expect_failures = [var.server_users]
}
