"""Networks, interfaces, addresses, volumes and instances in the AWS double."""

from kind import Kind, arguments, tagged


class Vpc(Kind):
    def create(self, aws, planned):
        vpc = aws.ec2.create_vpc(CidrBlock=planned["cidr_block"], TagSpecifications=tagged("vpc", planned))["Vpc"]
        for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
            aws.ec2.modify_vpc_attribute(VpcId=vpc["VpcId"], **{attribute: {"Value": True}})
        groups = aws.ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])
        return {"id": vpc["VpcId"], "default_security_group_id": groups["SecurityGroups"][0]["GroupId"]}

    def read(self, aws, state):
        seen = aws.ec2.describe_vpcs(VpcIds=[state["id"]])["Vpcs"][0]
        return {"cidr_block": seen["CidrBlock"]}

    def delete(self, aws, state):
        aws.ec2.delete_vpc(VpcId=state["id"])


class DefaultSecurityGroup(Kind):
    def create(self, aws, planned):
        groups = aws.ec2.describe_security_groups(
            Filters=[{"Name": "vpc-id", "Values": [planned["vpc_id"]]}, {"Name": "group-name", "Values": ["default"]}]
        )["SecurityGroups"]
        group = groups[0]
        for permissions, revoke in (
            (group["IpPermissions"], aws.ec2.revoke_security_group_ingress),
            (group["IpPermissionsEgress"], aws.ec2.revoke_security_group_egress),
        ):
            if permissions:
                revoke(GroupId=group["GroupId"], IpPermissions=permissions)
        return {"id": group["GroupId"]}

    def read(self, aws, state):
        group = aws.ec2.describe_security_groups(GroupIds=[state["id"]])["SecurityGroups"][0]
        if group["IpPermissions"] or group["IpPermissionsEgress"]:
            raise ValueError(f"{state['id']} has rules")
        return {}

    def delete(self, aws, state):
        """It goes with its VPC."""


class Subnet(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_subnet(
            VpcId=planned["vpc_id"],
            CidrBlock=planned["cidr_block"],
            AvailabilityZone=planned["availability_zone"],
            TagSpecifications=tagged("subnet", planned),
        )["Subnet"]
        return {"id": made["SubnetId"]}

    def read(self, aws, state):
        seen = aws.ec2.describe_subnets(SubnetIds=[state["id"]])["Subnets"][0]
        return {
            "availability_zone": seen["AvailabilityZone"],
            "cidr_block": seen["CidrBlock"],
            "map_public_ip_on_launch": seen["MapPublicIpOnLaunch"],
        }

    def delete(self, aws, state):
        aws.ec2.delete_subnet(SubnetId=state["id"])


class RouteTable(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_route_table(
            VpcId=planned["vpc_id"], TagSpecifications=tagged("route-table", planned)
        )["RouteTable"]
        return {"id": made["RouteTableId"]}

    def read(self, aws, state):
        aws.ec2.describe_route_tables(RouteTableIds=[state["id"]])
        return {}

    def delete(self, aws, state):
        aws.ec2.delete_route_table(RouteTableId=state["id"])


class RouteTableAssociation(Kind):
    def create(self, aws, planned):
        made = aws.ec2.associate_route_table(RouteTableId=planned["route_table_id"], SubnetId=planned["subnet_id"])
        return {"id": made["AssociationId"]}

    def delete(self, aws, state):
        aws.ec2.disassociate_route_table(AssociationId=state["id"])


class InternetGateway(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_internet_gateway(TagSpecifications=tagged("internet-gateway", planned))
        identifier = made["InternetGateway"]["InternetGatewayId"]
        aws.ec2.attach_internet_gateway(InternetGatewayId=identifier, VpcId=planned["vpc_id"])
        return {"id": identifier}

    def delete(self, aws, state):
        aws.ec2.detach_internet_gateway(InternetGatewayId=state["id"], VpcId=state["vpc_id"])
        aws.ec2.delete_internet_gateway(InternetGatewayId=state["id"])


class Route(Kind):
    def create(self, aws, planned):
        aws.ec2.create_route(
            RouteTableId=planned["route_table_id"],
            DestinationCidrBlock=planned["destination_cidr_block"],
            **arguments(GatewayId=planned.get("gateway_id"), NetworkInterfaceId=planned.get("network_interface_id")),
        )
        return {"id": f"r-{planned['route_table_id']}-{planned['destination_cidr_block']}"}

    def read(self, aws, state):
        """Where it leads now: nodes move it."""
        table = aws.ec2.describe_route_tables(RouteTableIds=[state["route_table_id"]])["RouteTables"][0]
        for route in table["Routes"]:
            if route.get("DestinationCidrBlock") == state["destination_cidr_block"]:
                return {"network_interface_id": route.get("NetworkInterfaceId"), "gateway_id": route.get("GatewayId")}
        return None

    def update(self, aws, prior, planned):
        aws.ec2.replace_route(
            RouteTableId=planned["route_table_id"],
            DestinationCidrBlock=planned["destination_cidr_block"],
            NetworkInterfaceId=planned["network_interface_id"],
        )
        return prior

    def delete(self, aws, state):
        aws.ec2.delete_route(
            RouteTableId=state["route_table_id"], DestinationCidrBlock=state["destination_cidr_block"]
        )


class SecurityGroup(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_security_group(
            GroupName=planned["name"],
            Description=planned["description"],
            VpcId=planned["vpc_id"],
            TagSpecifications=tagged("security-group", planned),
        )
        # As the provider does: AWS lets everything out of a new group.
        group = aws.ec2.describe_security_groups(GroupIds=[made["GroupId"]])["SecurityGroups"][0]
        if group["IpPermissionsEgress"]:
            aws.ec2.revoke_security_group_egress(
                GroupId=made["GroupId"], IpPermissions=group["IpPermissionsEgress"]
            )
        return {"id": made["GroupId"]}

    def read(self, aws, state):
        aws.ec2.describe_security_groups(GroupIds=[state["id"]])
        return {}

    def delete(self, aws, state):
        aws.ec2.delete_security_group(GroupId=state["id"])


class SecurityGroupRule(Kind):
    def __init__(self, way):
        self.way = way

    def create(self, aws, planned):
        permission = {
            "IpProtocol": planned["ip_protocol"],
            "FromPort": int(planned["from_port"]),
            "ToPort": int(planned["to_port"]),
        }
        if planned.get("cidr_ipv4"):
            permission["IpRanges"] = [{"CidrIp": planned["cidr_ipv4"]}]
        elif planned.get("prefix_list_id"):
            permission["PrefixListIds"] = [{"PrefixListId": planned["prefix_list_id"]}]
        else:
            permission["UserIdGroupPairs"] = [{"GroupId": planned["referenced_security_group_id"]}]
        authorize = getattr(aws.ec2, f"authorize_security_group_{self.way}")
        made = authorize(GroupId=planned["security_group_id"], IpPermissions=[permission])
        return {"id": made["SecurityGroupRules"][0]["SecurityGroupRuleId"]}

    def read(self, aws, state):
        aws.ec2.describe_security_group_rules(SecurityGroupRuleIds=[state["id"]])
        return {}

    def delete(self, aws, state):
        revoke = getattr(aws.ec2, f"revoke_security_group_{self.way}")
        revoke(GroupId=state["security_group_id"], SecurityGroupRuleIds=[state["id"]])


class VpcEndpoint(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_vpc_endpoint(
            VpcId=planned["vpc_id"],
            ServiceName=planned["service_name"],
            VpcEndpointType=planned["vpc_endpoint_type"],
            **arguments(
                SubnetIds=planned.get("subnet_ids"),
                SecurityGroupIds=planned.get("security_group_ids"),
                RouteTableIds=planned.get("route_table_ids"),
                PolicyDocument=planned.get("policy"),
            ),
        )["VpcEndpoint"]
        return {"id": made["VpcEndpointId"], "prefix_list_id": "pl-6ea54007"}

    def read(self, aws, state):
        seen = aws.ec2.describe_vpc_endpoints(VpcEndpointIds=[state["id"]])["VpcEndpoints"]
        [endpoint] = [endpoint for endpoint in seen if endpoint["State"] != "deleted"] or [None]
        return endpoint and ({"policy": endpoint["PolicyDocument"]} if endpoint.get("PolicyDocument") else {})

    def delete(self, aws, state):
        aws.ec2.delete_vpc_endpoints(VpcEndpointIds=[state["id"]])


class NetworkInterface(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_network_interface(
            SubnetId=planned["subnet_id"],
            Description=planned["description"],
            Groups=planned["security_groups"],
            TagSpecifications=tagged("network-interface", planned),
        )["NetworkInterface"]
        identifier = made["NetworkInterfaceId"]
        if planned.get("source_dest_check") is not None:
            aws.ec2.modify_network_interface_attribute(
                NetworkInterfaceId=identifier, SourceDestCheck={"Value": planned["source_dest_check"]}
            )
        return {"id": identifier, "private_ip": made["PrivateIpAddress"], "private_ips": [made["PrivateIpAddress"]]}

    def read(self, aws, state):
        seen = aws.ec2.describe_network_interfaces(NetworkInterfaceIds=[state["id"]])["NetworkInterfaces"][0]
        checked = {} if state["source_dest_check"] is None else {"source_dest_check": seen["SourceDestCheck"]}
        return {"private_ip": seen["PrivateIpAddress"], **checked}

    def delete(self, aws, state):
        aws.ec2.delete_network_interface(NetworkInterfaceId=state["id"])


class Eip(Kind):
    def create(self, aws, planned):
        made = aws.ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip", planned))
        return {
            "id": made["AllocationId"],
            "allocation_id": made["AllocationId"],
            "public_ip": made["PublicIp"],
            "instance": "",
            "network_interface": "",
            "association_id": "",
        }

    def read(self, aws, state):
        """Whose it is now: nodes move it."""
        seen = aws.ec2.describe_addresses(AllocationIds=[state["id"]])["Addresses"][0]
        return {
            "network_interface": seen.get("NetworkInterfaceId", ""),
            "instance": seen.get("InstanceId", ""),
            "association_id": seen.get("AssociationId", ""),
        }

    def delete(self, aws, state):
        # As the provider does.
        if state["association_id"]:
            aws.ec2.disassociate_address(AssociationId=state["association_id"])
        aws.ec2.release_address(AllocationId=state["id"])


class Volume(Kind):
    def create(self, aws, planned):
        made = aws.ec2.create_volume(
            AvailabilityZone=planned["availability_zone"],
            Size=int(planned["size"]),
            VolumeType=planned["type"],
            Encrypted=planned["encrypted"],
            TagSpecifications=tagged("volume", planned),
        )
        return {"id": made["VolumeId"]}

    def read(self, aws, state):
        seen = aws.ec2.describe_volumes(VolumeIds=[state["id"]])["Volumes"][0]
        return {"availability_zone": seen["AvailabilityZone"], "encrypted": seen["Encrypted"]}

    def delete(self, aws, state):
        if state["final_snapshot"]:
            aws.ec2.create_snapshot(VolumeId=state["id"], Description="final")
        aws.ec2.delete_volume(VolumeId=state["id"])


class VolumeAttachment(Kind):
    def create(self, aws, planned):
        aws.ec2.attach_volume(
            Device=planned["device_name"], InstanceId=planned["instance_id"], VolumeId=planned["volume_id"]
        )
        return {"id": f"vai-{planned['volume_id']}"}

    def read(self, aws, state):
        seen = aws.ec2.describe_volumes(VolumeIds=[state["volume_id"]])["Volumes"][0]["Attachments"]
        return {} if any(attached["InstanceId"] == state["instance_id"] for attached in seen) else None

    def delete(self, aws, state):
        aws.ec2.detach_volume(
            Device=state["device_name"], InstanceId=state["instance_id"], VolumeId=state["volume_id"]
        )


class Instance(Kind):
    def create(self, aws, planned):
        made = aws.ec2.run_instances(
            ImageId=planned["ami"],
            InstanceType=planned["instance_type"],
            MinCount=1,
            MaxCount=1,
            UserData=planned["user_data"],
            IamInstanceProfile={"Name": planned["iam_instance_profile"]},
            NetworkInterfaces=[
                {
                    "DeviceIndex": 0,
                    "NetworkInterfaceId": planned["primary_network_interface"][0]["network_interface_id"],
                }
            ],
            TagSpecifications=tagged("instance", planned),
        )["Instances"][0]
        return {"id": made["InstanceId"]}

    def read(self, aws, state):
        seen = aws.ec2.describe_instances(InstanceIds=[state["id"]])["Reservations"][0]["Instances"][0]
        return None if seen["State"]["Name"] in ("terminated", "shutting-down") else {"ami": seen["ImageId"]}

    def delete(self, aws, state):
        aws.ec2.terminate_instances(InstanceIds=[state["id"]])


KINDS = {
    "aws_default_security_group": DefaultSecurityGroup(),
    "aws_ebs_volume": Volume(),
    "aws_eip": Eip(),
    "aws_instance": Instance(),
    "aws_internet_gateway": InternetGateway(),
    "aws_network_interface": NetworkInterface(),
    "aws_route": Route(),
    "aws_route_table": RouteTable(),
    "aws_route_table_association": RouteTableAssociation(),
    "aws_security_group": SecurityGroup(),
    "aws_subnet": Subnet(),
    "aws_volume_attachment": VolumeAttachment(),
    "aws_vpc": Vpc(),
    "aws_vpc_endpoint": VpcEndpoint(),
    "aws_vpc_security_group_egress_rule": SecurityGroupRule("egress"),
    "aws_vpc_security_group_ingress_rule": SecurityGroupRule("ingress"),
}
