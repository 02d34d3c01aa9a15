"""A world that is the AWS double: what terraform applies is made there, and looked at again before each plan."""

import secrets
from threading import Lock

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

import cloud_ec2
import cloud_rds
import cloud_services
from made_up import MadeUp

KINDS = {**cloud_ec2.KINDS, **cloud_rds.KINDS, **cloud_services.KINDS}


class Cloud(MadeUp):
    def __init__(self, url):
        self.url = url
        self.clients = {}
        # Terraform asks for many things at once; clients may be shared by threads, but not made by several.
        self.making = Lock()

    def client(self, service):
        with self.making:
            if service not in self.clients:
                self.clients[service] = boto3.client(
                    service,
                    endpoint_url=self.url,
                    region_name=self.region,
                    aws_access_key_id="test",
                    aws_secret_access_key="test",
                    config=Config(retries={"max_attempts": 0}),
                )
            return self.clients[service]

    def __getattr__(self, name):
        # cloud.ec2, cloud.route53, …
        return self.client(name)

    def fresh(self):
        """A word that was never used."""
        return secrets.token_hex(8)

    def create(self, kind, planned):
        known = {name: value for name, value in planned.items() if type(value) is not object}
        return KINDS[kind].create(self, known)

    def update(self, kind, prior, planned):
        return KINDS[kind].update(self, prior, planned)

    def delete(self, kind, prior):
        KINDS[kind].delete(self, prior)

    def read(self, kind, state):
        """None if it is gone; else with what AWS says now where that may have changed."""
        try:
            seen = KINDS[kind].read(self, state)
        except ClientError as error:
            if "NotFound" in error.response["Error"]["Code"] or "NoSuch" in error.response["Error"]["Code"]:
                return None
            raise
        return None if seen is None else {**state, **seen}

    def look(self, kind, config):
        if kind == "aws_availability_zones":
            zones = self.ec2.describe_availability_zones()["AvailabilityZones"]
            return {"names": sorted(zone["ZoneName"] for zone in zones)}
        if kind == "aws_ec2_instance_type_offerings":
            found = self.ec2.describe_instance_type_offerings(
                LocationType=config["location_type"],
                Filters=[{"Name": asked["name"], "Values": asked["values"]} for asked in config["filter"]],
            )["InstanceTypeOfferings"]
            return {"locations": sorted(offering["Location"] for offering in found)}
        if kind == "aws_subnet":
            subnet = self.ec2.describe_subnets(SubnetIds=[config["id"]])["Subnets"][0]
            return {
                "id": subnet["SubnetId"],
                "availability_zone": subnet["AvailabilityZone"],
                "cidr_block": subnet["CidrBlock"],
                "vpc_id": subnet["VpcId"],
            }
        if kind == "aws_caller_identity":
            return {"account_id": self.sts.get_caller_identity()["Account"]}
        return super().look(kind, config)

