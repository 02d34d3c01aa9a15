"""The examples applied to the AWS double: what is made is there, what nodes move stays moved, what is destroyed is gone."""

import json

import boto3

from handed_over import handed_over
from nodes_replaced import nodes_replaced
from roles_made import roles_made
from workspace import Failed


class Account:
    """The double, past terraform."""

    def __init__(self, url, region):
        self.url, self.region = url, region

    def client(self, service):
        return boto3.client(
            service, endpoint_url=self.url, region_name=self.region, aws_access_key_id="x", aws_secret_access_key="x"
        )

    def network(self, prefix="10.9"):
        """As somebody who has one already: what the example existing-vpc asks for."""
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock=f"{prefix}.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"{prefix}.{number}.0/24", AvailabilityZone=f"{self.region}{zone}")
            for number, zone in enumerate("abcabc")
        ]
        subnets = [subnet["Subnet"]["SubnetId"] for subnet in subnets]
        tables = [ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
        return {
            "node_subnet_ids": subnets[:3], "server_subnet_ids": subnets[3:], "client_route_table_ids": tables,
            "api_cidr": f"{prefix}.0.0/16",
        }

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

    def move_by_record(self, outputs):
        """As the first node that takes the endpoint: a record that terraform has not made, and its epoch beside it."""
        route53 = self.client("route53")
        [zone] = route53.list_hosted_zones()["HostedZones"]
        records = [
            (f"_komainu.{outputs['host']}", "TXT", '"epoch=1"'),
            (outputs["host"], "A", self.node("c")["PrivateIpAddress"]),
        ]
        for name, kind, value in records:
            record = {"Name": name, "Type": kind, "TTL": 5, "ResourceRecords": [{"Value": value}]}
            route53.change_resource_record_sets(
                HostedZoneId=zone["Id"], ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
            )
        return len(records)

    def interface(self, node):
        return self.node(node)["NetworkInterfaceId"]

    def node(self, node):
        found = self.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
        return next(i for i in found if i["Description"].startswith(f"komainu node {node} of"))

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
        rds = self.client("rds")
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
            "database clusters": [c["DBClusterIdentifier"] for c in rds.describe_db_clusters()["DBClusters"]],
            "database instances": [i["DBInstanceIdentifier"] for i in rds.describe_db_instances()["DBInstances"]],
            "zones": [z["Id"] for z in self.client("route53").list_hosted_zones()["HostedZones"]],
            "roles": [r["RoleName"] for r in self.client("iam").list_roles()["Roles"]],
            "secrets": [s["Name"] for s in secrets if not s.get("DeletedDate")],
            "log groups": [g["logGroupName"] for g in self.client("logs").describe_log_groups()["logGroups"]],
            "alarms": [a["AlarmName"] for a in self.client("cloudwatch").describe_alarms()["MetricAlarms"]],
            "rules": [r["Name"] for r in self.client("events").list_rules()["Rules"]],
            "networks": [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]],
        }


def names(thing):
    return {tag["Key"] for tag in thing.get("Tags", [])}


def applied(workspace, komainu, name, given, account):
    where = f"examples/{name}"
    before = account.left()
    workspace.terraform(where, "init")
    workspace.terraform(where, "apply", "-auto-approve", *given)
    outputs = json.loads(workspace.terraform(where, "output", "-json", "hand_over"))
    made = account.left()
    managed = "administrator" in outputs
    expected = (3, 3, 5, 1) if managed else (6, 6, 7, 0)
    if tuple(len(made[kind]) for kind in ("instances", "volumes", "secrets", "database clusters")) != expected:
        raise Failed(f"{where}: not what was asked for is in the double: {made}")
    workspace.terraform(where, "plan", "-detailed-exitcode", *given)

    if made["addresses"]:
        moved = account.move_by_address(outputs)
    else:
        moved = account.move_by_route(outputs) if outputs["addresses"] else account.move_by_record(outputs)
    if not moved:
        raise Failed(f"{where}: nothing leads to the endpoint {outputs['addresses']}")
    if not managed:
        account.found(outputs)
    handed_over(workspace, komainu, account, outputs)
    if managed:
        roles_made(workspace, komainu, account, outputs)
    # Once: the module nodes is the same in all of them.
    if name == "ec2-route-table":
        nodes_replaced(workspace, where, account, given)
    workspace.terraform(where, "plan", "-detailed-exitcode", *given)

    if managed:
        protected(workspace, where, account, given)
        given = [*given, "-var=deletion_protection=false"]
    workspace.terraform(where, "destroy", "-auto-approve", *given)
    if account.left() != before:
        raise Failed(f"{where}: destroy leaves {account.left()}, before there was {before}")


def protected(workspace, where, account, given):
    """A database is not destroyed by one command."""
    database = next(name for name in workspace.terraform(where, "state", "list").split() if ".aws_rds_cluster." in name)
    workspace.terraform(where, "destroy", "-auto-approve", f"-target={database}", *given, expect=(1,))
    if not account.left()["database clusters"]:
        raise Failed(f"{where}: destroy has taken the database, protected as it was")
    workspace.terraform(where, "apply", "-auto-approve", *given, "-var=deletion_protection=false")
