"""
What the contract tests make in an emulated account: roles, state machines, stacks, and Auto Scaling groups.

The groups' instances run the shell command that a test puts into their user data (`user_data`).
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

from horovod_local import LocalCloud
from horovod_local.instances.processes import processes_with
from horovod_node import contract
from support.waiting import eventually

ROLE = "arn:aws:iam::123456789012:role/any"
SERVICES = ("ec2.amazonaws.com", "events.amazonaws.com", "sagemaker.amazonaws.com", "states.amazonaws.com")
SDK = "arn:aws:states:::aws-sdk:"


def make_role(cloud: LocalCloud) -> None:
    """Make the role `any`, and an instance profile of it: services may assume it, and it may do everything."""
    iam = cloud.client("iam")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": list(SERVICES)}}
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    version = {"Version": "2012-10-17"}
    iam.create_role(RoleName="any", AssumeRolePolicyDocument=json.dumps({**version, "Statement": trust}))
    iam.put_role_policy(
        RoleName="any", PolicyName="all", PolicyDocument=json.dumps({**version, "Statement": everything})
    )
    iam.create_instance_profile(InstanceProfileName="any")
    iam.add_role_to_instance_profile(InstanceProfileName="any", RoleName="any")


class Machines:
    """State machines in JSONata, run in the cloud."""

    def __init__(self, cloud: LocalCloud, *, region: str | None = None) -> None:
        self.api = cloud.client("stepfunctions", region=region)
        self._dynamodb = cloud.client("dynamodb")

    def create(self, machine: dict[str, Any]) -> str:
        """Create *machine*, or a machine of the one state that is given; return its ARN."""
        definition = (
            machine if "States" in machine else {"StartAt": "Only", "States": {"Only": {**machine, "End": True}}}
        )
        created = self.api.create_state_machine(
            name=f"machine-{uuid.uuid4()}",
            definition=json.dumps({"QueryLanguage": "JSONata", **definition}),
            roleArn=ROLE,
        )
        return str(created["stateMachineArn"])

    def start(self, machine: dict[str, Any], given: Any = None) -> str:
        """Start *machine* with the input *given* and return the execution's ARN."""
        started = self.api.start_execution(
            stateMachineArn=self.create(machine), name=f"run-{uuid.uuid4()}", input=json.dumps(given or {})
        )
        return str(started["executionArn"])

    def finish(self, execution: str) -> dict[str, Any]:
        """Wait until *execution* has ended and describe it."""
        ended: dict[str, Any] = eventually(
            lambda: self.api.describe_execution(executionArn=execution), lambda seen: seen["status"] != "RUNNING"
        )
        return ended

    def run(self, machine: dict[str, Any], given: Any = None) -> dict[str, Any]:
        """Run *machine* to its end and describe the execution."""
        return self.finish(self.start(machine, given))

    def output(self, machine: dict[str, Any], given: Any = None) -> Any:
        """Run *machine*, which must succeed, and return its output."""
        ended = self.run(machine, given)
        assert ended["status"] == "SUCCEEDED", ended
        return json.loads(ended["output"])

    def token(self, execution: str, *, attempt: int = 0) -> str:
        """Wait for the token that the `token_task` of *execution* gives out in its *attempt*."""
        key = {"pk": {"S": execution.rpartition(":")[2]}}
        item = eventually(
            lambda: self._dynamodb.get_item(TableName="tokens", Key=key).get("Item"),
            lambda seen: seen is not None and seen["try"]["N"] == str(attempt),
        )
        return str(item["token"]["S"])


class Stacks:
    """Stacks of plain templates."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.api = cloud.client("cloudformation")
        self.made: list[str] = []

    def create(self, template: dict[str, Any], **request: Any) -> dict[str, Any]:
        """Create a stack of *template* and describe it."""
        name = f"stack-{uuid.uuid4()}"
        self.made.append(name)
        self.api.create_stack(StackName=name, TemplateBody=json.dumps(template), **request)
        return self.describe(name)

    def describe(self, name: str) -> dict[str, Any]:
        """Describe a stack, its outputs as a mapping."""
        stack = self.api.describe_stacks(StackName=name)["Stacks"][0]
        return {**stack, "outputs": {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}}


class Fleet:
    """An Auto Scaling group of two types, of weight 4 and 1, in two zones."""

    def __init__(
        self,
        cloud: LocalCloud,
        *,
        user_data: str,
        base: int,
        types: tuple[tuple[str, int], ...],
        strategies: tuple[str, str],
    ) -> None:
        self.cloud = cloud
        self.api = cloud.client("autoscaling")
        self.ec2 = cloud.client("ec2")
        self.name = f"fleet-{uuid.uuid4()}"
        subnets = self.ec2.describe_subnets()["Subnets"][:2]
        self.zones = sorted(subnet["AvailabilityZone"] for subnet in subnets)
        self.ec2.create_launch_template(
            LaunchTemplateName=self.name,
            LaunchTemplateData={
                "ImageId": "ami-1",
                "InstanceType": "g5.xlarge",
                "UserData": user_data,
                "IamInstanceProfile": {"Name": "any"},
            },
        )
        self.api.create_auto_scaling_group(
            AutoScalingGroupName=self.name,
            MinSize=0,
            MaxSize=16,
            VPCZoneIdentifier=",".join(subnet["SubnetId"] for subnet in subnets),
            Tags=[{"Key": "fleet", "Value": "mine", "PropagateAtLaunch": True}],
            MixedInstancesPolicy={
                "LaunchTemplate": {
                    "LaunchTemplateSpecification": {"LaunchTemplateName": self.name, "Version": "$Latest"},
                    "Overrides": [{"InstanceType": kind, "WeightedCapacity": str(weight)} for kind, weight in types],
                },
                "InstancesDistribution": {
                    "OnDemandBaseCapacity": base,
                    "OnDemandPercentageAboveBaseCapacity": 0,
                    "OnDemandAllocationStrategy": strategies[0],
                    "SpotAllocationStrategy": strategies[1],
                },
            },
        )

    def scale(self, capacity: int) -> None:
        """Ask for *capacity*, and wait until EC2 has answered."""
        self.api.update_auto_scaling_group(AutoScalingGroupName=self.name, DesiredCapacity=capacity)
        self.wait_for_answers()

    def wait_for_answers(self) -> None:
        """Wait until every launch that was asked for has been answered."""
        eventually(self.unanswered, lambda found: not found)

    def unanswered(self) -> list[dict[str, Any]]:
        """List the launches that were asked for and not answered."""
        return [item for item in self.activities() if item["StatusCode"].startswith("Waiting")]

    def protect(self, *instances: str, protected: bool = True) -> None:
        """Protect *instances* from scale-in, or not any more."""
        self.api.set_instance_protection(
            AutoScalingGroupName=self.name, InstanceIds=list(instances), ProtectedFromScaleIn=protected
        )

    def share(self, *, base: int = 0, percentage: int = 0) -> None:
        """Change how much of the group is On-Demand."""
        shares = {"OnDemandBaseCapacity": base, "OnDemandPercentageAboveBaseCapacity": percentage}
        policy = self.describe()["MixedInstancesPolicy"]["LaunchTemplate"]
        template = {name: policy["LaunchTemplateSpecification"][name] for name in ("LaunchTemplateId", "Version")}
        self.api.update_auto_scaling_group(
            AutoScalingGroupName=self.name,
            MixedInstancesPolicy={
                "LaunchTemplate": {"LaunchTemplateSpecification": template, "Overrides": policy["Overrides"]},
                "InstancesDistribution": shares,
            },
        )

    def describe(self) -> dict[str, Any]:
        """Describe the group."""
        groups = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return dict(groups[0])

    def members(self) -> list[dict[str, Any]]:
        """Describe the group's instances, as the group does."""
        return list(self.describe()["Instances"])

    def instances(self) -> list[dict[str, Any]]:
        """Describe the group's instances, as EC2 does."""
        ids = [member["InstanceId"] for member in self.members()]
        if not ids:
            return []
        answer = self.ec2.describe_instances(InstanceIds=ids)
        return [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]

    def kinds(self) -> list[tuple[str, str]]:
        """List type and market of every instance, sorted."""
        return sorted(
            (instance["InstanceType"], instance.get("InstanceLifecycle", "on-demand")) for instance in self.instances()
        )

    def activities(self) -> list[dict[str, Any]]:
        """List what the group did, newest first."""
        return list(self.api.describe_scaling_activities(AutoScalingGroupName=self.name)["Activities"])


class Fleets:
    """Makes fleets."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self.made: list[Fleet] = []

    def create(
        self,
        *,
        user_data: str = "",
        base: int = 0,
        types: tuple[tuple[str, int], ...] = (("g5.12xlarge", 4), ("g5.xlarge", 1)),
        strategies: tuple[str, str] = ("prioritized", "price-capacity-optimized"),
    ) -> Fleet:
        """Make a fleet at rest; the *strategies* are those of On-Demand and of Spot."""
        self.made.append(Fleet(self._cloud, user_data=user_data, base=base, types=types, strategies=strategies))
        return self.made[-1]


def user_data(command: str, *, switch: str | None = None) -> str:
    """User data of an instance that is a node, whose agent runs *command* instead, and whose switch is *switch*."""
    script = f"""#!/bin/bash
cat > '{contract.NODE_ENV_FILE}' <<'NODE_ENV'
{contract.ENV_ENGINE}={contract.ENGINE_EC2}
{contract.ENV_FLEET}=the fleet
AWS_REGION=eu-west-1
TEST_COMMAND={command}
NODE_ENV
docker run nothing
"""
    if switch is not None:
        script += f"cat > '{contract.SWITCH_FILE}' <<'SWITCH'\n{switch}\nSWITCH\n"
    return base64.b64encode(script.encode()).decode()


def started(cloud: Any, fleet: Any, count: int = 1) -> list[Any]:
    """Wait until *count* of the fleet's instances have an agent."""
    found: list[Any] = eventually(
        lambda: [item for item in cloud.instances() if item.group == fleet.name and item.pid],
        lambda items: len(items) == count,
    )
    return found


def processes(instance: Any) -> list[int]:
    """What runs on the instance."""
    return list(processes_with(contract.ENV_NODE_ID, instance.instance_id))
