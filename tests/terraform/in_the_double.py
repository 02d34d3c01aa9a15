"""The examples applied to the AWS double: what is made is there, what nodes move stays moved, what is destroyed is gone."""

import json

import boto3

from handed_over import handed_over
from workspace import Failed


class Account:
    """The double, past terraform."""

    def __init__(self, url, region):
        self.url, self.region = url, region

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.url, region_name=self.region, aws_access_key_id="x", aws_secret_access_key="x"
        )

    def move_by_route(self, outputs):
        """As a node that takes the endpoint: every route to its address leads to the last node's interface."""
        ec2 = self.client("ec2")
        moved = 0
        for table in ec2.describe_route_tables()["RouteTables"]:
            for route in table["Routes"]:
                if route.get("DestinationCidrBlock") == f"{outputs['addresses'][0]}/32":
                    ec2.replace_route(
                        RouteTableId=table["RouteTableId"],
                        DestinationCidrBlock=route["DestinationCidrBlock"],
                        NetworkInterfaceId=self.interface("c"),
                    )
                    moved += 1
        return moved

    def move_by_address(self, outputs):
        ec2 = self.client("ec2")
        [address] = ec2.describe_addresses(PublicIps=outputs["addresses"])["Addresses"]
        ec2.associate_address(
            AllocationId=address["AllocationId"], NetworkInterfaceId=self.interface("c"), AllowReassociation=False
        )
        return 1

    def interface(self, node):
        found = self.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
        return next(i["NetworkInterfaceId"] for i in found if i["Description"].startswith(f"komainu node {node} of"))

    def found(self, outputs):
        """As the founder: it writes where it has founded the database."""
        self.client("ssm").put_parameter(
            Name=f"/komainu/{outputs['cluster']}/founded", Value="vol-1", Type="String", Overwrite=True
        )

    def left(self):
        """What somebody would find, and pay for."""
        ec2 = self.client("ec2")
        running = [
            instance["InstanceId"]
            for reservation in ec2.describe_instances()["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ]
        secrets = self.client("secretsmanager").list_secrets()["SecretList"]
        return {
            "instances": running,
            "volumes": [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"] if "komainu:cluster" in names(v)],
            "addresses": [a["AllocationId"] for a in ec2.describe_addresses()["Addresses"]],
            "interfaces": [
                i["NetworkInterfaceId"]
                for i in ec2.describe_network_interfaces()["NetworkInterfaces"]
                if i["Description"].startswith(("komainu node", "PostgreSQL server"))
            ],
            "zones": [z["Id"] for z in self.client("route53").list_hosted_zones()["HostedZones"]],
            "roles": [r["RoleName"] for r in self.client("iam").list_roles()["Roles"]],
            "secrets": [s["Name"] for s in secrets if not s.get("DeletedDate")],
            "log groups": [g["logGroupName"] for g in self.client("logs").describe_log_groups()["logGroups"]],
            "alarms": [a["AlarmName"] for a in self.client("cloudwatch").describe_alarms()["MetricAlarms"]],
            "networks": [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]],
        }


def names(thing):
    return {tag["Key"] for tag in thing.get("Tags", [])}


def applied(workspace, komainu, name, given, url, region):
    where = f"examples/{name}"
    account = Account(url, region)
    before = account.left()
    workspace.terraform(where, "init")
    workspace.terraform(where, "apply", "-auto-approve", *given)
    outputs = json.loads(workspace.terraform(where, "output", "-json", "hand_over"))
    made = account.left()
    if (len(made["instances"]), len(made["volumes"]), len(made["secrets"])) != (6, 6, 7):
        raise Failed(f"{where}: not what was asked for is in the double: {made}")
    workspace.terraform(where, "plan", "-detailed-exitcode", *given)

    move = account.move_by_address if made["addresses"] else account.move_by_route
    if not move(outputs):
        raise Failed(f"{where}: nothing leads to the endpoint {outputs['addresses']}")
    account.found(outputs)
    handed_over(workspace, komainu, account, outputs, url)
    workspace.terraform(where, "plan", "-detailed-exitcode", *given)

    workspace.terraform(where, "destroy", "-auto-approve", *given)
    if account.left() != before:
        raise Failed(f"{where}: destroy leaves {account.left()}, before there was {before}")
