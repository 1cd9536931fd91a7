"""The drill's place in an AWS account: the CDK CLI deploys, AWS Fault Injection Service (FIS) interrupts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.clients import AwsClients
from horovod_client.aws.refusals import AwsError
from horovod_client.client import TrainingClient
from horovod_client.doctor.deep.examine import tester_client
from horovod_client.errors import InvalidInput, PricesUnknown
from horovod_client.prices.lookup import PriceLookup
from horovod_client.proof.place import STACK, Paces, StepFailed
from horovod_node import contract

if TYPE_CHECKING:
    from boto3.session import Session

ROLE: Final = f"{STACK}-interrupts"
POLICY: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": "ec2:SendSpotInstanceInterruptions",
            "Resource": "arn:{partition}:ec2:*:*:instance/*",
        },
    ],
}
"""Permissions for aws:ec2:send-spot-instance-interruptions (AWS FIS User Guide, "AWS FIS Actions reference")."""
ROLE_SECONDS: Final = 20
"""Wait after the creation of a role: IAM propagates it to other services within some seconds."""
EXPERIMENT_SECONDS: Final = 300
JOB_PACES: Final = Paces(start=3600)
"""Times of a drill on SageMaker, whose On-Demand jobs have waited an hour for capacity (docs/engines.md), unbilled."""
ENDED_BADLY: Final = ("failed", "stopped", "cancelled")


@dataclass(kw_only=True)
class AwsPlace:
    """
    An AWS account and Region.

    Args:
        session: boto3 session of the account, with a Region.
        engine: Engine of the drill, one of `claims.ENGINES`.
        instance_type: Instance type of the drill, with one GPU.
        image: Folder with the Dockerfile, or the address of an image in ECR; empty for the library's own.
        max_cost_usd: Cost ceiling of each run, in US dollars.
        tell: Prints a line, such as the output of the CDK CLI. Default: `print`.
        paces: Times of the drill.

    Raises:
        InvalidInput: If the session has no Region.
    """

    session: Session
    engine: str
    instance_type: str
    image: str
    max_cost_usd: float
    tell: Callable[[str], None] = print
    paces: Paces = field(default_factory=Paces)
    local: bool = False
    _made: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.session.region_name:
            raise InvalidInput("no region is set: set AWS_REGION to the drill's Region")
        self._region = self.session.region_name
        identity = self.session.client("sts").get_caller_identity()
        self.name = f"account {identity['Account']}, {self._region}"
        self._partition = identity["Arn"].split(":")[1]

    def on_demand_usd(self) -> float:
        """Look up the On-Demand price of the drill's instance type, in USD an hour."""
        lookup = PriceLookup(region=self._region, clients=AwsClients(region=self._region, session=self.session))
        prices = lookup.on_demand_prices_of([self.instance_type])
        usd = [price.usd for price in prices.found if price.market == contract.ON_DEMAND]
        if not usd:
            raise PricesUnknown(f"the drill needs a price to start: {'; '.join(prices.remarks)}")
        return max(usd)

    def deploy(self) -> None:
        """Bootstrap the account for the CDK if necessary, and deploy the stack."""
        self._cdk("bootstrap")
        self._cdk("deploy", STACK, "--require-approval", "never")

    def destroy(self) -> None:
        """Delete the stack."""
        self._cdk("destroy", STACK, "--force")

    def client(self, service: str) -> Any:
        """Return a boto3 client for the account."""
        make: Any = self.session.client  # the stubs require a literal service name
        if service == "stepfunctions":
            return tester_client(make, region=self._region)
        return make(service, region_name=self._region)

    def training(self) -> TrainingClient:
        """Return a client of the deployed training."""
        return TrainingClient.from_stack(STACK, session=self.session)

    def interrupt(self, instance: str) -> dict[str, str]:
        """Interrupt a Spot Instance with FIS, after a notice of two minutes."""
        fis = self.client("fis")
        template = fis.create_experiment_template(
            clientToken=str(uuid.uuid4()),
            description=f"{STACK}: interrupt one Spot Instance",
            stopConditions=[{"source": "none"}],
            roleArn=self._role(),
            targets={
                "instance": {
                    "resourceType": "aws:ec2:spot-instance",
                    "resourceArns": [f"arn:{self._partition}:ec2:{self._region}:{self._account}:instance/{instance}"],
                    "selectionMode": "ALL",
                }
            },
            actions={
                "interrupt": {
                    "actionId": "aws:ec2:send-spot-instance-interruptions",
                    "parameters": {"durationBeforeInterruption": "PT2M"},
                    "targets": {"SpotInstances": "instance"},
                }
            },
            tags={"cdk-horovod:proof": STACK},
        )["experimentTemplate"]["id"]
        self._made["template"] = template
        experiment = fis.start_experiment(clientToken=str(uuid.uuid4()), experimentTemplateId=template)["experiment"][
            "id"
        ]
        until = time.monotonic() + EXPERIMENT_SECONDS
        while True:
            state = fis.get_experiment(id=experiment)["experiment"]["state"]
            if state["status"] == "completed":
                return {"experiment": experiment}
            if state["status"] in ENDED_BADLY or time.monotonic() > until:
                raise StepFailed(f"FIS experiment {experiment}: {state['status']}: {state.get('reason', '')}")
            time.sleep(self.paces.look)

    def tidy(self) -> list[str]:
        """Remove the experiment template and its role."""
        left = []
        iam = self.client("iam")
        if "template" in self._made:
            try:
                self.client("fis").delete_experiment_template(id=self._made["template"])
            except AwsError as error:
                left.append(f"FIS experiment template {self._made['template']}: delete it ({error})")
        if "role" in self._made:
            try:
                iam.delete_role_policy(RoleName=ROLE, PolicyName=ROLE)
                iam.delete_role(RoleName=ROLE)
            except AwsError as error:
                left.append(f"IAM role {ROLE}: delete it ({error})")
        return left

    @property
    def _account(self) -> str:
        return self.name.split()[1].rstrip(",")

    def _role(self) -> str:
        iam = self.client("iam")
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "fis.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        }
        role = iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        self._made["role"] = ROLE
        policy = json.dumps(POLICY).replace("{partition}", self._partition)
        iam.put_role_policy(RoleName=ROLE, PolicyName=ROLE, PolicyDocument=policy)
        time.sleep(ROLE_SECONDS)
        return str(role)

    def _cdk(self, *arguments: str) -> None:
        command = ["cdk", *arguments, "--app", app_command(self, usd_per_hour=self.on_demand_usd())]
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                lines = []
                for line in process.stdout or ():
                    lines.append(line.rstrip())
                    self.tell(f"  {line.rstrip()}")
        except FileNotFoundError as error:
            raise StepFailed("the CDK CLI is missing: npm install -g aws-cdk, or run make prove") from error
        if process.returncode:
            said = [line for line in lines if line.strip()][-5:]
            raise StepFailed(f"cdk {arguments[0]}: {' '.join(said)}")


def app_command(place: Any, *, usd_per_hour: float) -> str:
    """
    Build the shell command that synthesises the drill's app, for the CDK CLI's `--app`.

    Args:
        place: Place with `engine`, `instance_type`, `image`, `max_cost_usd` and `paces`.
        usd_per_hour: On-Demand price of an instance, in USD an hour.
    """
    paces = asdict(place.paces)
    settings = {
        "stack": STACK,
        "engine": place.engine,
        "instance_type": place.instance_type,
        "image": place.image,
        "usd_per_hour": usd_per_hour,
        "max_cost_usd": place.max_cost_usd,
        "reaper_minutes": 1,
        **{name: paces[name] for name in ("heartbeat", "lease", "start", "poll")},
    }
    return f"{sys.executable} -m cdk_horovod.proof_app '{json.dumps(settings)}'"
