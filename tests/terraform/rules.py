"""What the bindings do not tell of the resource types used here, from the provider's documentation."""

# Optional arguments that AWS, or the provider, fills in when they are left out.
FILLED_IN = {
    "*": {"id", "region", "tags_all"},
    "aws_cloudwatch_event_rule": {"event_bus_name"},
    "aws_cloudwatch_event_target": {"event_bus_name", "target_id"},
    "aws_eip": {"instance", "network_interface", "network_border_group", "public_ipv4_pool"},
    "aws_instance": {"private_ip", "subnet_id", "availability_zone", "vpc_security_group_ids", "ebs_optimized"},
    "aws_network_interface": {"private_ip", "private_ips"},
    "aws_rds_cluster_parameter_group": {"name"},
    "aws_rds_engine_version": {"parameter_group_family"},
    "aws_route53_zone": {"name_servers"},
    "aws_subnet": {"availability_zone_id"},
    "aws_vpc_endpoint": {"policy"},
}

# Arguments whose change replaces the thing.
REPLACES = {
    "aws_cloudwatch_log_group": {"name"},
    "aws_ebs_volume": {"availability_zone", "encrypted", "kms_key_id", "snapshot_id"},
    "aws_db_subnet_group": {"name"},
    "aws_iam_instance_profile": {"name"},
    "aws_iam_role": {"name"},
    "aws_iam_role_policy": {"name", "role"},
    "aws_iam_role_policy_attachment": {"role", "policy_arn"},
    "aws_instance": {"ami", "subnet_id", "availability_zone", "primary_network_interface", "root_block_device", "key_name"},
    "aws_internet_gateway": set(),
    "aws_network_interface": {"subnet_id"},
    "aws_rds_cluster": {
        "cluster_identifier", "database_name", "db_subnet_group_name", "engine", "kms_key_id", "master_username",
        "snapshot_identifier", "storage_encrypted",
    },
    "aws_rds_cluster_instance": {"availability_zone", "cluster_identifier", "db_subnet_group_name", "engine", "identifier"},
    "aws_rds_cluster_parameter_group": {"description", "family", "name_prefix"},
    "aws_route": {"route_table_id", "destination_cidr_block", "destination_ipv6_cidr_block"},
    "aws_route53_record": {"zone_id", "name", "type"},
    "aws_route53_zone": {"name"},
    "aws_route_table_association": {"subnet_id"},
    "aws_secretsmanager_secret": {"name"},
    "aws_security_group": {"name", "description", "vpc_id"},
    "aws_ssm_parameter": {"name", "type"},
    "aws_subnet": {"cidr_block", "availability_zone", "vpc_id"},
    "aws_volume_attachment": {"device_name", "instance_id", "volume_id"},
    "aws_vpc": {"cidr_block"},
    "aws_vpc_endpoint": {"service_name", "vpc_id", "vpc_endpoint_type"},
}

# Of each of these sets exactly one is given.
ONE_OF = {
    "aws_route": [
        {"destination_cidr_block", "destination_ipv6_cidr_block", "destination_prefix_list_id"},
        {"network_interface_id", "gateway_id", "nat_gateway_id", "transit_gateway_id", "vpc_endpoint_id"},
    ],
    "aws_vpc_security_group_ingress_rule": [
        {"cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id"}
    ],
    "aws_vpc_security_group_egress_rule": [
        {"cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id"}
    ],
}

# How long a name may be.
LONGEST = {
    ("aws_iam_role", "name"): 64,
    ("aws_iam_instance_profile", "name"): 128,
    ("aws_iam_role_policy", "name"): 128,
    ("aws_db_subnet_group", "name"): 255,
    ("aws_rds_cluster", "cluster_identifier"): 63,
    ("aws_rds_cluster_instance", "identifier"): 63,
    ("aws_security_group", "name"): 255,
    ("aws_cloudwatch_metric_alarm", "alarm_name"): 255,
}

# What must be a JSON document.
DOCUMENTS = {"policy", "assume_role_policy", "event_pattern", "dashboard_body"}
# The most that an instance takes, before it is encoded.
USER_DATA_BYTES = 16384


def filled_in(kind):
    return FILLED_IN["*"] | FILLED_IN.get(kind, set())
