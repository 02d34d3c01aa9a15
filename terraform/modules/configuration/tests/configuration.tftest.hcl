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

run "refuses_two_nodes" {
  command = plan

  variables {
    nodes = { a = { host = "10.0.0.10", zone = "z1" }, b = { host = "10.0.1.10", zone = "z2" } }
  }

  expect_failures = [var.nodes]
}
