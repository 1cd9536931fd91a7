"""The claims about this product that only an AWS account can prove, and the step of the drill that proves each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEPLOY, STATES, TRAIN, STOP, INTERRUPT = "deploy", "states", "train", "stop", "interrupt"
REAPER, SWITCH, ZERO, COST, DESTROY = "reaper", "switch", "zero", "cost", "destroy"
STEPS: Final = (DEPLOY, STATES, TRAIN, STOP, INTERRUPT, REAPER, SWITCH, ZERO, COST, DESTROY)
"""The steps of the drill, in their order."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    A claim that stays unproven until it was observed in an AWS account.

    Args:
        id: Short name, for the report.
        says: The claim, as a sentence.
        step: The step that proves it; None when no step does.
        emulated: Whether the local cloud only emulates what the claim is about, so that a drill there proves nothing.
        because: Why no step proves it.
    """

    id: str
    says: str
    step: str | None = None
    emulated: bool = True
    because: str = ""


CLAIMS: Final = (
    Claim(id="templates", step=DEPLOY, says="CloudFormation deploys the templates."),
    Claim(
        id="definitions",
        step=STATES,
        says="Step Functions accepts every state of the three machines: names, expressions, errors and their catchers.",
    ),
    Claim(
        id="boot",
        step=TRAIN,
        says="Instances boot: the machine image, the user data, Docker, the GPU driver, the image from ECR, the agent.",
    ),
    Claim(
        id="permissions",
        step=TRAIN,
        says="Roles, key policies and bucket policies allow everything that a run needs.",
    ),
    Claim(id="ring", step=TRAIN, says="Two instances form one ring and train on GPUs, through NCCL."),
    Claim(id="model", step=TRAIN, emulated=False, says="A run that says it succeeded has a model in S3 that works."),
    Claim(id="empty", step=TRAIN, says="A run that ends leaves no instance, according to EC2 itself."),
    Claim(id="clean-up", step=STOP, says="The event of a stopped run starts its clean-up, and the run has a receipt."),
    Claim(
        id="spot", step=INTERRUPT, says="A ring survives the interruption of a Spot Instance, after EC2's own notice."
    ),
    Claim(id="reaper", step=REAPER, says="The reaper empties the fleet of a stopped run without the clean-up's help."),
    Claim(
        id="switch",
        step=SWITCH,
        says="Instances terminate themselves when clean-up and reaper are switched off.",
    ),
    Claim(id="nothing-left", step=ZERO, says="When all runs are over, no instance of the fleet is left in any state."),
    Claim(id="receipts", step=COST, says="Every receipt has a cost, and the sum stays below the stated limit."),
    Claim(
        id="destroy", step=DESTROY, says="The whole stack is deleted, and resources that are kept on purpose are named."
    ),
    Claim(
        id="efa",
        says="Elastic Fabric Adapters carry the ring.",
        because="types with EFA cost more",
    ),
    Claim(
        id="large",
        says="Rings of hundreds of nodes form and end.",
        because="they cost more",
    ),
    Claim(
        id="isolated",
        says="Nodes work in isolated subnets, through VPC endpoints alone and their policies.",
        because="the endpoints cost more than the whole drill if they stay; set horovod:network=isolated to see it",
    ),
    Claim(id="nat", says="Nodes work in private subnets behind NAT.", because="as for isolated subnets"),
    Claim(
        id="hopper",
        says="P5 and other types of the newest GPUs run the image.",
        because="their quotas are rare",
    ),
    Claim(
        id="engines",
        says="ECS, EKS, EMR and SageMaker run the same request.",
        because="the drill is about the EC2 fleet, which is the default",
    ),
    Claim(
        id="partitions",
        says="It works in the partitions of China and GovCloud.",
        because="an account is in one partition",
    ),
    Claim(id="alarms", says="Alarms reach a person.", because="somebody must have subscribed to the topic, and answer"),
    Claim(
        id="reservations",
        says="Runs use capacity reservations and blocks.",
        because="a reservation is paid while it is kept",
    ),
)


def claims_of(step: str) -> tuple[Claim, ...]:
    """List the claims that *step* proves."""
    return tuple(claim for claim in CLAIMS if claim.step == step)
