"""Roles, secrets, names, logs and alarms in the AWS double."""

from kind import Kind, arguments, tags


class Role(Kind):
    def create(self, aws, planned):
        made = aws.iam.create_role(
            RoleName=planned["name"], AssumeRolePolicyDocument=planned["assume_role_policy"], Tags=tags(planned)
        )["Role"]
        return {"id": made["RoleName"], "arn": made["Arn"], "unique_id": made["RoleId"]}

    def read(self, aws, state):
        return {"arn": aws.iam.get_role(RoleName=state["id"])["Role"]["Arn"]}

    def delete(self, aws, state):
        aws.iam.delete_role(RoleName=state["id"])


class RolePolicy(Kind):
    def create(self, aws, planned):
        aws.iam.put_role_policy(
            RoleName=planned["role"], PolicyName=planned["name"], PolicyDocument=planned["policy"]
        )
        return {"id": f"{planned['role']}:{planned['name']}"}

    def read(self, aws, state):
        aws.iam.get_role_policy(RoleName=state["role"], PolicyName=state["name"])
        return {}

    def update(self, aws, prior, planned):
        self.create(aws, planned)
        return prior

    def delete(self, aws, state):
        aws.iam.delete_role_policy(RoleName=state["role"], PolicyName=state["name"])


class InstanceProfile(Kind):
    def create(self, aws, planned):
        made = aws.iam.create_instance_profile(InstanceProfileName=planned["name"])["InstanceProfile"]
        aws.iam.add_role_to_instance_profile(InstanceProfileName=planned["name"], RoleName=planned["role"])
        return {"id": planned["name"], "arn": made["Arn"]}

    def read(self, aws, state):
        aws.iam.get_instance_profile(InstanceProfileName=state["id"])
        return {}

    def delete(self, aws, state):
        aws.iam.remove_role_from_instance_profile(InstanceProfileName=state["id"], RoleName=state["role"])
        aws.iam.delete_instance_profile(InstanceProfileName=state["id"])


class Secret(Kind):
    def create(self, aws, planned):
        # The provider ends a prefix in digits of its own; a name may have been used before.
        name = planned["name_prefix"] + aws.fresh()
        made = aws.secretsmanager.create_secret(Name=name, Tags=tags(planned))
        return {"id": made["ARN"], "arn": made["ARN"], "name": name}

    def read(self, aws, state):
        seen = aws.secretsmanager.describe_secret(SecretId=state["id"])
        return None if seen.get("DeletedDate") else {}

    def delete(self, aws, state):
        days = int(state["recovery_window_in_days"])
        how = {"RecoveryWindowInDays": days} if days else {"ForceDeleteWithoutRecovery": True}
        aws.secretsmanager.delete_secret(SecretId=state["id"], **how)


class Parameter(Kind):
    def create(self, aws, planned):
        aws.ssm.put_parameter(Name=planned["name"], Type=planned["type"], Value=planned["value"], Tags=tags(planned))
        return {"id": planned["name"]}

    def read(self, aws, state):
        """What is in it now: the founder writes it."""
        return {"value": aws.ssm.get_parameter(Name=state["id"])["Parameter"]["Value"]}

    def delete(self, aws, state):
        aws.ssm.delete_parameter(Name=state["id"])


class Zone(Kind):
    def create(self, aws, planned):
        made = aws.route53.create_hosted_zone(
            Name=planned["name"],
            CallerReference=aws.fresh(),
            HostedZoneConfig={"PrivateZone": True},
            VPC={"VPCRegion": aws.region, "VPCId": planned["vpc"][0]["vpc_id"]},
        )["HostedZone"]
        identifier = made["Id"].removeprefix("/hostedzone/")
        return {"id": identifier, "zone_id": identifier}

    def read(self, aws, state):
        aws.route53.get_hosted_zone(Id=state["id"])
        return {}

    def delete(self, aws, state):
        if state["force_destroy"]:
            # As the provider does: everything but the zone's own two records.
            records = aws.route53.list_resource_record_sets(HostedZoneId=state["id"])["ResourceRecordSets"]
            for record in records:
                if record["Type"] not in ("NS", "SOA"):
                    change_record(aws, state["id"], "DELETE", record)
        aws.route53.delete_hosted_zone(Id=state["id"])


class Record(Kind):
    def create(self, aws, planned):
        change_record(aws, planned["zone_id"], "CREATE", self.wanted(planned))
        return {"id": f"{planned['zone_id']}_{planned['name']}_{planned['type']}", "fqdn": planned["name"]}

    def read(self, aws, state):
        seen = aws.route53.list_resource_record_sets(
            HostedZoneId=state["zone_id"], StartRecordName=state["name"], StartRecordType=state["type"]
        )["ResourceRecordSets"]
        for record in seen:
            if record["Name"].rstrip(".") == state["name"] and record["Type"] == state["type"]:
                return {"records": [value["Value"] for value in record["ResourceRecords"]], "ttl": record["TTL"]}
        return None

    def delete(self, aws, state):
        change_record(aws, state["zone_id"], "DELETE", self.wanted(state))

    def wanted(self, values):
        return {
            "Name": values["name"],
            "Type": values["type"],
            "TTL": int(values["ttl"]),
            "ResourceRecords": [{"Value": value} for value in values["records"]],
        }


def change_record(aws, zone, action, record):
    batch = {"Changes": [{"Action": action, "ResourceRecordSet": record}]}
    aws.route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=batch)


class LogGroup(Kind):
    def create(self, aws, planned):
        aws.logs.create_log_group(logGroupName=planned["name"])
        aws.logs.put_retention_policy(
            logGroupName=planned["name"], retentionInDays=int(planned["retention_in_days"])
        )
        return {"id": planned["name"], "arn": self.seen(aws, planned["name"])["arn"].removesuffix(":*")}

    def read(self, aws, state):
        seen = self.seen(aws, state["id"])
        return seen and {"retention_in_days": seen["retentionInDays"]}

    def seen(self, aws, name):
        groups = aws.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        return next((group for group in groups if group["logGroupName"] == name), None)

    def delete(self, aws, state):
        aws.logs.delete_log_group(logGroupName=state["id"])


class MetricFilter(Kind):
    def create(self, aws, planned):
        [transformation] = planned["metric_transformation"]
        aws.logs.put_metric_filter(
            logGroupName=planned["log_group_name"],
            filterName=planned["name"],
            filterPattern=planned["pattern"],
            metricTransformations=[
                {
                    "metricName": transformation["name"],
                    "metricNamespace": transformation["namespace"],
                    "metricValue": transformation["value"],
                }
            ],
        )
        return {"id": planned["name"]}

    def delete(self, aws, state):
        aws.logs.delete_metric_filter(logGroupName=state["log_group_name"], filterName=state["name"])


class Alarm(Kind):
    def create(self, aws, planned):
        queries = [query(asked) for asked in planned.get("metric_query") or []]
        one = {} if queries else {
            "MetricName": planned["metric_name"],
            "Namespace": planned["namespace"],
            "Statistic": planned["statistic"],
            "Period": int(planned["period"]),
        }
        aws.cloudwatch.put_metric_alarm(
            AlarmName=planned["alarm_name"],
            **one,
            **arguments(Metrics=queries),
            EvaluationPeriods=int(planned["evaluation_periods"]),
            Threshold=float(planned["threshold"]),
            ComparisonOperator=planned["comparison_operator"],
            TreatMissingData=planned["treat_missing_data"],
            **arguments(
                DatapointsToAlarm=planned["datapoints_to_alarm"] and int(planned["datapoints_to_alarm"]),
                Dimensions=[
                    {"Name": name, "Value": value} for name, value in (planned.get("dimensions") or {}).items()
                ]
            ),
        )
        return {"id": planned["alarm_name"]}

    def update(self, aws, prior, planned):
        # The same call says anew what it is.
        return {**prior, **self.create(aws, planned)}

    def read(self, aws, state):
        return {} if aws.cloudwatch.describe_alarms(AlarmNames=[state["id"]])["MetricAlarms"] else None

    def delete(self, aws, state):
        aws.cloudwatch.delete_alarms(AlarmNames=[state["id"]])


def query(asked):
    """One metric_query of an alarm, in the API's words."""
    if not asked["metric"]:
        return {"Id": asked["id"], "Expression": asked["expression"], "ReturnData": True}
    [metric] = asked["metric"]
    looked_at = {
        "Namespace": metric["namespace"],
        "MetricName": metric["metric_name"],
        "Dimensions": [{"Name": name, "Value": value} for name, value in metric["dimensions"].items()],
    }
    stat = {"Metric": looked_at, "Period": int(metric["period"]), "Stat": metric["stat"]}
    return {"Id": asked["id"], "MetricStat": stat, "ReturnData": False}


class Dashboard(Kind):
    def create(self, aws, planned):
        aws.cloudwatch.put_dashboard(
            DashboardName=planned["dashboard_name"], DashboardBody=planned["dashboard_body"]
        )
        return {"id": planned["dashboard_name"]}

    def update(self, aws, prior, planned):
        # The same call says anew what it is.
        return {**prior, **self.create(aws, planned)}

    def read(self, aws, state):
        found = aws.cloudwatch.list_dashboards(DashboardNamePrefix=state["id"])["DashboardEntries"]
        return {} if any(entry["DashboardName"] == state["id"] for entry in found) else None

    def delete(self, aws, state):
        aws.cloudwatch.delete_dashboards(DashboardNames=[state["id"]])


class EventRule(Kind):
    """The double's own region stands for the one that is given."""

    def create(self, aws, planned):
        made = aws.events.put_rule(
            Name=planned["name"],
            Description=planned["description"],
            EventPattern=planned["event_pattern"],
            Tags=tags(planned),
        )
        return {"id": planned["name"], "arn": made["RuleArn"], "event_bus_name": "default"}

    def read(self, aws, state):
        seen = aws.events.describe_rule(Name=state["id"])
        return {"event_pattern": seen["EventPattern"], "description": seen["Description"]}

    def delete(self, aws, state):
        aws.events.delete_rule(Name=state["id"])


class EventTarget(Kind):
    def create(self, aws, planned):
        target = {"Id": aws.fresh(), "Arn": planned["arn"]}
        if planned["role_arn"]:
            target["RoleArn"] = planned["role_arn"]
        aws.events.put_targets(Rule=planned["rule"], Targets=[target])
        return {"id": f"{planned['rule']}-{target['Id']}", "target_id": target["Id"], "event_bus_name": "default"}

    def read(self, aws, state):
        found = aws.events.list_targets_by_rule(Rule=state["rule"])["Targets"]
        seen = next((target for target in found if target["Id"] == state["target_id"]), None)
        return None if seen is None else {"arn": seen["Arn"], "role_arn": seen.get("RoleArn")}

    def delete(self, aws, state):
        aws.events.remove_targets(Rule=state["rule"], Ids=[state["target_id"]])


KINDS = {
    "aws_cloudwatch_dashboard": Dashboard(),
    "aws_cloudwatch_event_rule": EventRule(),
    "aws_cloudwatch_event_target": EventTarget(),
    "aws_cloudwatch_log_group": LogGroup(),
    "aws_cloudwatch_log_metric_filter": MetricFilter(),
    "aws_cloudwatch_metric_alarm": Alarm(),
    "aws_iam_instance_profile": InstanceProfile(),
    "aws_iam_role": Role(),
    "aws_iam_role_policy": RolePolicy(),
    "aws_route53_record": Record(),
    "aws_route53_zone": Zone(),
    "aws_secretsmanager_secret": Secret(),
    "aws_ssm_parameter": Parameter(),
}
