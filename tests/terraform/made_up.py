"""A world in which everything that is asked for exists: identifiers are made up, and nothing changes by itself."""

import secrets

ACCOUNT = "111122223333"
PREFIXES = {
    "aws_ebs_volume": "vol",
    "aws_eip": "eipalloc",
    "aws_instance": "i",
    "aws_internet_gateway": "igw",
    "aws_network_interface": "eni",
    "aws_route_table": "rtb",
    "aws_security_group": "sg",
    "aws_subnet": "subnet",
    "aws_vpc": "vpc",
    "aws_vpc_endpoint": "vpce",
}


class MadeUp:
    region = "eu-central-1"
    default_tags = {}

    def create(self, kind, planned):
        identifier = f"{PREFIXES.get(kind, kind.removeprefix('aws_'))}-{secrets.token_hex(8)}"
        made = {"id": identifier, "arn": f"arn:aws:{kind.split('_')[1]}:{self.region}:{ACCOUNT}:{identifier}"}
        if kind in ("aws_iam_role", "aws_iam_instance_profile", "aws_ssm_parameter", "aws_cloudwatch_log_group"):
            made["id"] = planned["name"]
        if kind == "aws_secretsmanager_secret":
            made["id"] = f"arn:aws:secretsmanager:{self.region}:{ACCOUNT}:secret:{planned['name_prefix']}{identifier[-6:]}"
            made["arn"] = made["id"]
        if kind in ("aws_rds_cluster", "aws_rds_cluster_instance"):
            made |= self.made_by_rds(kind, planned)
        if kind == "aws_cloudwatch_log_group":
            made["arn"] = f"arn:aws:logs:{self.region}:{ACCOUNT}:log-group:{planned['name']}"
        return made

    def made_by_rds(self, kind, planned):
        of = {"aws_rds_cluster": ("cluster_identifier", "cluster-abc123"), "aws_rds_cluster_instance": ("identifier", "abc123")}
        identifier, domain = planned[of[kind][0]], of[kind][1]
        made = {"id": identifier, "endpoint": f"{identifier}.{domain}.{self.region}.rds.amazonaws.com"}
        if planned.get("manage_master_user_password"):
            arn = f"arn:aws:secretsmanager:{self.region}:{ACCOUNT}:secret:rds!{identifier}-AbCdEf"
            made["master_user_secret"] = [{"kms_key_id": "alias", "secret_arn": arn, "secret_status": "active"}]
            made["arn"] = f"arn:aws:rds:{self.region}:{ACCOUNT}:cluster:{identifier}"
            made["cluster_resource_id"] = f"cluster-{secrets.token_hex(8).upper()}"
        return made

    def update(self, kind, prior, planned):
        return None

    def delete(self, kind, prior):
        pass

    def read(self, kind, state):
        return state

    def made_up(self, kind, name, of, identifier):
        """What AWS would fill in."""
        if of == "string" and name.endswith("_ip"):
            # The last digits of an identifier are as good as random.
            last = int(identifier[-4:], 16)
            return f"10.99.{last // 256}.{last % 256}"
        if of == "string":
            return f"{name}-of-{identifier}"
        return {"number": 0, "bool": False}[of] if isinstance(of, str) else {} if of[0] == "map" else []

    def look(self, kind, config):
        zones = [f"{self.region}{letter}" for letter in "abcd"]
        if kind == "aws_subnet":
            # "subnet-ZONE-N" lies in that zone.
            letter, number = config["id"].split("-")[1:3]
            return {
                "availability_zone": self.region + letter,
                "cidr_block": f"10.9.{number}.0/24",
                "vpc_id": "vpc-existing",
                "id": config["id"],
            }
        if kind == "aws_ec2_instance_type_offerings":
            # "not-in-a-b.large" is in every zone but these two.
            [name] = config["filter"][0]["values"]
            without = name.removeprefix("not-in-").split(".")[0].split("-") if name.startswith("not-in-") else []
            return {"locations": [zone for zone in zones if zone[-1] not in without]}
        if kind == "aws_rds_engine_version":
            major = config["version"].split(".")[0]
            return {
                "version_actual": config["version"] if "." in config["version"] else f"{major}.8",
                "parameter_group_family": f"{config['engine']}{major}",
            }
        return {
            "aws_availability_zones": {"names": zones},
            "aws_caller_identity": {"account_id": ACCOUNT, "arn": f"arn:aws:iam::{ACCOUNT}:root"},
            "aws_ec2_instance_type": {"supported_architectures": ["x86_64"]},
            "aws_partition": {"partition": "aws", "dns_suffix": "amazonaws.com"},
            "aws_region": {"region": self.region, "name": self.region},
            "aws_vpc": {"cidr_block": "10.9.0.0/16"},
        }[kind]
