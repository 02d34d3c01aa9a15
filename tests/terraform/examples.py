"""What the checks give each example."""

import json

# What each example is given, beyond its defaults: with subnets that the stub knows the zones of.
VARIABLES = {
    "existing-vpc": {
        "node_subnet_ids": ["subnet-a-1", "subnet-b-2", "subnet-c-3"],
        "server_subnet_ids": ["subnet-a-4", "subnet-b-5", "subnet-c-6"],
        "client_route_table_ids": ["rtb-clients-a", "rtb-clients-b"],
        "api_cidr": "10.9.0.0/16",
    },
    "ec2-elastic-ip": {"client_cidrs": ["203.0.113.0/24"]},
}
COMMON = {
    "region": "eu-central-1",
    "image_id": "ami-0123456789abcdef0",
    "alarm_topic_arn": "arn:aws:sns:eu-central-1:111122223333:alarms",
}


def variables(example, **instead):
    given = {**COMMON, **VARIABLES.get(example, {}), **instead}
    return [f"-var={name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
