"""Databases of RDS and Aurora in the AWS double."""

from kind import Kind, tags


class SubnetGroup(Kind):
    def create(self, aws, planned):
        made = aws.rds.create_db_subnet_group(
            DBSubnetGroupName=planned["name"],
            DBSubnetGroupDescription=planned["description"],
            SubnetIds=planned["subnet_ids"],
            Tags=tags(planned),
        )["DBSubnetGroup"]
        return {"id": planned["name"], "arn": made["DBSubnetGroupArn"], "vpc_id": made["VpcId"]}

    def read(self, aws, state):
        [seen] = aws.rds.describe_db_subnet_groups(DBSubnetGroupName=state["id"])["DBSubnetGroups"]
        return {"subnet_ids": sorted(subnet["SubnetIdentifier"] for subnet in seen["Subnets"])}

    def delete(self, aws, state):
        aws.rds.delete_db_subnet_group(DBSubnetGroupName=state["id"])


class ClusterParameterGroup(Kind):
    def create(self, aws, planned):
        name = planned["name_prefix"] + aws.fresh()
        made = aws.rds.create_db_cluster_parameter_group(
            DBClusterParameterGroupName=name,
            DBParameterGroupFamily=planned["family"],
            Description=planned["description"],
        )["DBClusterParameterGroup"]
        return {"id": name, "name": name, "arn": made["DBClusterParameterGroupArn"]}

    def read(self, aws, state):
        aws.rds.describe_db_cluster_parameter_groups(DBClusterParameterGroupName=state["id"])
        return {}

    def delete(self, aws, state):
        aws.rds.delete_db_cluster_parameter_group(DBClusterParameterGroupName=state["id"])


class Cluster(Kind):
    def create(self, aws, planned):
        made = aws.rds.create_db_cluster(
            DBClusterIdentifier=planned["cluster_identifier"],
            Engine=planned["engine"],
            EngineVersion=planned["engine_version"],
            DBSubnetGroupName=planned["db_subnet_group_name"],
            DBClusterParameterGroupName=planned["db_cluster_parameter_group_name"],
            VpcSecurityGroupIds=planned["vpc_security_group_ids"],
            MasterUsername=planned["master_username"],
            ManageMasterUserPassword=planned["manage_master_user_password"],
            StorageEncrypted=planned["storage_encrypted"],
            BackupRetentionPeriod=int(planned["backup_retention_period"]),
            DeletionProtection=planned["deletion_protection"],
            Tags=tags(planned),
            DatabaseName=planned["database_name"],
            Port=int(planned["port"]),
            **self.by_kind(planned),
        )["DBCluster"]
        secret = made["MasterUserSecret"]
        return {
            "id": made["DBClusterIdentifier"],
            "arn": made["DBClusterArn"],
            "cluster_resource_id": made["DbClusterResourceId"],
            "endpoint": made["Endpoint"],
            "reader_endpoint": made["ReaderEndpoint"],
            "master_user_secret": [
                {
                    "kms_key_id": secret["KmsKeyId"],
                    "secret_arn": secret["SecretArn"],
                    "secret_status": secret["SecretStatus"],
                }
            ],
        }

    def by_kind(self, planned):
        """What only an Aurora cluster is told here, or only a Multi-AZ DB cluster, whose instances AWS makes."""
        if not planned.get("db_cluster_instance_class"):
            return {"EnableIAMDatabaseAuthentication": planned["iam_database_authentication_enabled"]}
        # The double takes no IAM authentication for these, as AWS did once; by its own manual AWS does now.
        return {
            "DBClusterInstanceClass": planned["db_cluster_instance_class"],
            "StorageType": planned["storage_type"],
            "AllocatedStorage": int(planned["allocated_storage"]),
            "Iops": int(planned["iops"]),
        }

    def read(self, aws, state):
        [seen] = aws.rds.describe_db_clusters(DBClusterIdentifier=state["id"])["DBClusters"]
        return {
            "storage_encrypted": seen["StorageEncrypted"],
            "deletion_protection": seen["DeletionProtection"],
            **({} if state["db_cluster_instance_class"] else {
                "iam_database_authentication_enabled": seen["IAMDatabaseAuthenticationEnabled"]
            }),
        }

    def update(self, aws, prior, planned):
        if planned["deletion_protection"] != prior["deletion_protection"]:
            aws.rds.modify_db_cluster(
                DBClusterIdentifier=prior["id"], DeletionProtection=planned["deletion_protection"]
            )
        return super().update(
            aws, {**prior, "deletion_protection": planned["deletion_protection"]}, planned
        )

    def delete(self, aws, state):
        last = (
            {"SkipFinalSnapshot": True}
            if state["skip_final_snapshot"]
            else {"FinalDBSnapshotIdentifier": state["final_snapshot_identifier"]}
        )
        aws.rds.delete_db_cluster(DBClusterIdentifier=state["id"], **last)


class ClusterInstance(Kind):
    def create(self, aws, planned):
        made = aws.rds.create_db_instance(
            DBInstanceIdentifier=planned["identifier"],
            DBClusterIdentifier=planned["cluster_identifier"],
            DBInstanceClass=planned["instance_class"],
            Engine=planned["engine"],
            AvailabilityZone=planned["availability_zone"],
            PubliclyAccessible=planned["publicly_accessible"],
            Tags=tags(planned),
        )["DBInstance"]
        return {"id": made["DBInstanceIdentifier"], "arn": made["DBInstanceArn"], "endpoint": made["Endpoint"]["Address"]}

    def read(self, aws, state):
        [seen] = aws.rds.describe_db_instances(DBInstanceIdentifier=state["id"])["DBInstances"]
        return {"availability_zone": seen["AvailabilityZone"], "publicly_accessible": seen["PubliclyAccessible"]}

    def delete(self, aws, state):
        aws.rds.delete_db_instance(DBInstanceIdentifier=state["id"], SkipFinalSnapshot=True)


KINDS = {
    "aws_db_subnet_group": SubnetGroup(),
    "aws_rds_cluster": Cluster(),
    "aws_rds_cluster_instance": ClusterInstance(),
    "aws_rds_cluster_parameter_group": ClusterParameterGroup(),
}
