"""Resources and running nodes of the drill's stack, according to CloudFormation and to what provides the nodes."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from horovod_client.aws.connection import Connection, find_connection
from horovod_client.proof import claims
from horovod_client.proof.place import STACK, Place
from horovod_node import contract

ALIVE: Final = ["pending", "running", "stopping", "stopped", "shutting-down"]
KEPT: Final = {"AWS::S3::Bucket": "bucket", "AWS::KMS::Key": "key"}
"""Resource types that are kept when the stack is deleted, because they contain or encrypt data."""
KEY_DAYS: Final = 7
"""Shortest waiting period of ScheduleKeyDeletion of KMS, in days."""


class Inventory:
    """
    Lists resources, instances and training jobs of the drill's stack.

    The resources are read once, because they are also needed after the stack is deleted.

    Args:
        place: Place of the drill.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def resources(self) -> int:
        """Number of the stack's resources."""
        return len(self._resources)

    @property
    def buckets(self) -> list[str]:
        """Names of the stack's buckets."""
        return [name for kind, name in self.kept() if kind == "bucket"]

    @cached_property
    def rules(self) -> dict[str, str]:
        """Names of the clean-up's and the reaper's rules, by the steps that disable them."""
        events = self._place.client("events")
        found = {}
        for resource in self._of("AWS::Events::Rule"):
            # A rule's physical id is its name, on another than the default bus with the bus as its prefix.
            name = resource.rpartition("|")[2]
            rule = events.describe_rule(Name=name)
            targets = events.list_targets_by_rule(Rule=name)["Targets"]
            if not any(":stateMachine:" in target["Arn"] for target in targets):
                continue
            found[claims.REAPER if rule.get("ScheduleExpression") else claims.STOP] = name
        return found

    def nodes(self) -> list[str]:
        """List every instance and every training job that has not ended."""
        return [*self._instances(), *self._jobs()]

    def _jobs(self) -> list[str]:
        """List the training jobs of the stack that have not ended, according to SageMaker."""
        if not self._job_prefixes:
            return []
        pages = self._place.client("sagemaker").get_paginator("list_training_jobs")
        return [
            job["TrainingJobName"]
            for status in ("InProgress", "Stopping")
            for page in pages.paginate(StatusEquals=status)
            for job in page["TrainingJobSummaries"]
            if job["TrainingJobName"].startswith(self._job_prefixes)
        ]

    def _instances(self) -> list[str]:
        """List every instance of the groups that is not terminated, according to EC2 or Auto Scaling."""
        if not self._groups:
            return []
        groups = self._place.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=self._groups)
        listed = {item["InstanceId"] for group in groups["AutoScalingGroups"] for item in group["Instances"]}
        filters = [
            {"Name": "tag:aws:autoscaling:groupName", "Values": self._groups},
            {"Name": "instance-state-name", "Values": ALIVE},
        ]
        pages = self._place.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        living = {item["InstanceId"] for page in pages for place in page["Reservations"] for item in place["Instances"]}
        return sorted(listed | living)

    def spot_instances(self) -> list[str]:
        """List the Spot Instances among them."""
        living = self._instances()
        if not living:
            return []
        places = self._place.client("ec2").describe_instances(InstanceIds=living)["Reservations"]
        instances = [item for place in places for item in place["Instances"]]
        return [item["InstanceId"] for item in instances if item.get("InstanceLifecycle") == "spot"]

    def desired(self) -> int:
        """Return the desired capacity of all groups."""
        if not self._groups:
            return 0
        groups = self._place.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=self._groups)
        return sum(group["DesiredCapacity"] for group in groups["AutoScalingGroups"])

    def leases(self, connection: Connection) -> list[str]:
        """
        List the names of the runs that hold a fleet.

        Args:
            connection: Connection to the training.
        """
        dynamodb, held = self._place.client("dynamodb"), []
        for fleet in connection.fleets:
            partition, sort = contract.lease_key(fleet.id)
            key = {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
            table = connection.ledger_table
            item = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
            if item is not None:
                held.append(item.get(contract.RUN, {}).get("S", "somebody"))
        return held

    def set_to_zero(self) -> None:
        """Set the desired capacity of every group to 0, and stop every job."""
        autoscaling = self._place.client("autoscaling")
        for group in self._groups:
            autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=0, HonorCooldown=False)
        for job in self._jobs():
            self._place.client("sagemaker").stop_training_job(TrainingJobName=job)

    def kept(self) -> list[tuple[str, str]]:
        """List the resources that are kept when the stack is deleted, as (kind, name)."""
        return [(KEPT[kind], name) for kind, name in self._resources if kind in KEPT]

    def delete(self, kept: list[tuple[str, str]]) -> list[str]:
        """Delete the buckets of *kept* with all their objects, schedule deletion of the keys, and return the names."""
        s3, kms = self._place.client("s3"), self._place.client("kms")
        for kind, name in kept:
            if kind == "bucket":
                for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
                    items = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                    objects = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in items]
                    if objects:
                        s3.delete_objects(Bucket=name, Delete={"Objects": objects, "Quiet": True})
                s3.delete_bucket(Bucket=name)
        for kind, name in kept:
            if kind == "key":
                kms.schedule_key_deletion(KeyId=name, PendingWindowInDays=KEY_DAYS)
        return [name for _, name in kept]

    @cached_property
    def _job_prefixes(self) -> tuple[str, ...]:
        """What the names of the stack's training jobs begin with, as its connection tells; needed after the stack."""
        connection = find_connection(self._place.client("cloudformation"), stack_name=STACK)
        return tuple(fleet.job_prefix for fleet in connection.fleets if fleet.job_prefix)

    @property
    def _groups(self) -> list[str]:
        return self._of("AWS::AutoScaling::AutoScalingGroup")

    def _of(self, kind: str) -> list[str]:
        return [name for found, name in self._resources if found == kind]

    @cached_property
    def _resources(self) -> list[tuple[str, str]]:
        pages: Any = self._place.client("cloudformation").get_paginator("list_stack_resources")
        return [
            (item["ResourceType"], item.get("PhysicalResourceId", ""))
            for page in pages.paginate(StackName=STACK)
            for item in page["StackResourceSummaries"]
        ]
