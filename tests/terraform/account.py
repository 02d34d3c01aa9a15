"""What holds for a whole stack, whichever modules it is made of. Each rule yields what breaks it."""

import json

import parliament

# What AWS lets nobody narrow down to a resource.
ONLY_STAR = {
    "cloudwatch:PutMetricData",
    "ec2:DescribeAccountAttributes",
    "ec2:DescribeAddresses",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeRouteTables",
    "servicequotas:GetServiceQuota",
    "ssm:UpdateInstanceInformation",
}
ONLY_STAR_SERVICES = ("ssmmessages:",)
# Kinds that have tags of their own, and are somebody's to find and to pay for.
PAID = {"aws_ebs_volume", "aws_eip", "aws_instance", "aws_vpc_endpoint", "aws_secretsmanager_secret"}
EVERYWHERE = ("0.0.0.0/0", "::/0")


def resources(shown):
    """Every managed resource of `terraform show -json`, as (address, kind, values)."""

    def of(module):
        for resource in module.get("resources", []):
            if resource["mode"] == "managed":
                yield resource["address"], resource["type"], resource["values"]
        for child in module.get("child_modules", []):
            yield from of(child)

    return list(of(shown["values"]["root_module"]))


def broken_rules(shown):
    stack = resources(shown)
    of_kind = lambda *kinds: [(address, values) for address, kind, values in stack if kind in kinds]
    for address, values in of_kind("aws_instance"):
        options = (values["metadata_options"] or [{}])[0]
        if options.get("http_tokens") != "required" or options.get("http_put_response_hop_limit") != 1:
            yield f"{address}: its metadata are not for itself only, with a token"
        if values["key_name"] or values["associate_public_ip_address"]:
            yield f"{address}: it has an SSH key or a public address of its own"
        if not values["root_block_device"] or not values["root_block_device"][0]["encrypted"]:
            yield f"{address}: its root volume is not encrypted"
        if "PRIVATE KEY" in values["user_data"]:
            yield f"{address}: a private key is in its user data"
    for address, values in of_kind("aws_ebs_volume"):
        if not values["encrypted"]:
            yield f"{address}: not encrypted"
    for address, values in of_kind("aws_vpc_security_group_ingress_rule"):
        if values["cidr_ipv4"] in EVERYWHERE or values["cidr_ipv6"] in EVERYWHERE:
            yield f"{address}: open to everybody"
        if values["ip_protocol"] != "tcp" or values["from_port"] != values["to_port"]:
            yield f"{address}: more than one TCP port"
        if values["from_port"] == 22:
            yield f"{address}: SSH"
    for address, values in of_kind("aws_security_group"):
        if values["ingress"] or values["egress"]:
            yield f"{address}: rules inside of the group, beside those of their own"
    for address, values in of_kind("aws_iam_role_policy"):
        for statement in json.loads(values["policy"])["Statement"]:
            yield from (f"{address}: {problem}" for problem in statement_problems(statement))
        # Actions and conditions that do not exist, and actions on what they do not apply to.
        for finding in parliament.analyze_policy_string(values["policy"]).findings:
            yield f"{address}: {finding.issue}: {finding.detail}"
    for address, values in of_kind(*PAID):
        if "komainu:cluster" not in (values["tags_all"] or {}):
            yield f"{address}: no tag tells whose it is"
    zones = {values["availability_zone"] for _, values in of_kind("aws_ebs_volume")}
    if len(zones) != 3:
        yield f"the volumes, and so the instances, are in {len(zones)} zones: {sorted(zones)}"
    for address, kind, values in stack:
        if "secret_string" in values or "private_key_pem" in values:
            yield f"{address}: {kind} has a secret, which is then in the state"


def statement_problems(statement):
    actions, targets = listed(statement["Action"]), listed(statement["Resource"])
    for action in actions:
        if "*" in action:
            yield f"the action {action} is more than one"
        if "*" in targets and action not in ONLY_STAR and not action.startswith(ONLY_STAR_SERVICES):
            yield f"{action} on everything"
    if statement["Effect"] != "Allow" or "NotAction" in statement or "NotResource" in statement:
        yield f"{statement} is not plain"


def listed(value):
    return value if isinstance(value, list) else [value]
