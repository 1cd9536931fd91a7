"""The claims about this product that only an AWS account can prove, and the step of the drill that proves each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from horovod_node import contract

DEPLOY, STATES, TRAIN, STOP, INTERRUPT = "deploy", "states", "train", "stop", "interrupt"
REAPER, SWITCH, ZERO, COST, DESTROY = "reaper", "switch", "zero", "cost", "destroy"
STEPS: Final = (DEPLOY, STATES, TRAIN, STOP, INTERRUPT, REAPER, SWITCH, ZERO, COST, DESTROY)
"""The steps of the drill, in their order."""
ENGINES: Final = (contract.ENGINE_EC2, contract.ENGINE_ECS, contract.ENGINE_SAGEMAKER)
"""The engines that a drill can be of."""
_INSTANCES: Final = (contract.ENGINE_EC2, contract.ENGINE_ECS)
"""Those whose nodes are on instances of a fleet."""


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
        engines: The engines that the claim is about. Default: all.
    """

    id: str
    says: str
    step: str | None = None
    emulated: bool = True
    because: str = ""
    engines: tuple[str, ...] = ENGINES


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
        engines=_INSTANCES,
        says="Instances boot: the machine image, the user data, Docker, the GPU driver, the image from ECR, the agent.",
    ),
    Claim(
        id="placement",
        step=TRAIN,
        engines=(contract.ENGINE_ECS,),
        says="Instances register with their GPUs, and daemon services place a task on each.",
    ),
    Claim(
        id="jobs",
        step=TRAIN,
        engines=(contract.ENGINE_SAGEMAKER,),
        says="SageMaker takes the job, and its containers find each other, write their folders and end as they should.",
    ),
    Claim(
        id="permissions",
        step=TRAIN,
        says="Roles, key policies and bucket policies allow everything that a run needs.",
    ),
    Claim(id="ring", step=TRAIN, says="Two nodes form one ring and train on GPUs, through NCCL."),
    Claim(id="model", step=TRAIN, emulated=False, says="A run that says it succeeded has a model in S3 that works."),
    Claim(id="empty", step=TRAIN, says="A run that ends leaves no node, according to EC2 or SageMaker itself."),
    Claim(id="clean-up", step=STOP, says="The event of a stopped run starts its clean-up, and the run has a receipt."),
    Claim(
        id="spot",
        step=INTERRUPT,
        engines=_INSTANCES,
        says="A ring survives the interruption of a Spot Instance, after EC2's own notice.",
    ),
    Claim(
        id="spot-jobs",
        engines=(contract.ENGINE_SAGEMAKER,),
        says="A run whose managed Spot job is interrupted continues in another job.",
        because="nobody can ask SageMaker for an interruption",
    ),
    Claim(id="reaper", step=REAPER, says="The reaper empties the fleet of a stopped run without the clean-up's help."),
    Claim(
        id="switch",
        step=SWITCH,
        says="Nodes end by themselves when clean-up and reaper are switched off.",
    ),
    Claim(id="nothing-left", step=ZERO, says="When all runs are over, no node is left in any state."),
    Claim(id="receipts", step=COST, says="Every receipt has a cost, and the sum stays below the stated limit."),
    Claim(
        id="destroy", step=DESTROY, says="The whole stack is deleted, and resources that are kept on purpose are named."
    ),
    Claim(
        id="efa",
        engines=_INSTANCES,
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
        id="encryption",
        engines=(contract.ENGINE_SAGEMAKER,),
        says="Horovod works where SageMaker encrypts the traffic between containers.",
        because="it is off by default, and makes the ring slower",
    ),
    Claim(
        id="hopper",
        says="P5 and other types of the newest GPUs run the image.",
        because="their quotas are rare",
    ),
    Claim(
        id="engines",
        says="The other engines run the same request.",
        because="a drill is of one engine; name another one with --engine",
    ),
    Claim(
        id="partitions",
        says="It works in the partitions of China and GovCloud.",
        because="an account is in one partition",
    ),
    Claim(id="alarms", says="Alarms reach a person.", because="somebody must have subscribed to the topic, and answer"),
    Claim(
        id="reservations",
        engines=_INSTANCES,
        says="Runs use capacity reservations and blocks.",
        because="a reservation is paid while it is kept",
    ),
)


def claims_about(engine: str) -> tuple[Claim, ...]:
    """List the claims about *engine*."""
    return tuple(claim for claim in CLAIMS if engine in claim.engines)


def claims_of(step: str, *, engine: str) -> tuple[Claim, ...]:
    """List the claims about *engine* that *step* proves."""
    return tuple(claim for claim in claims_about(engine) if claim.step == step)


def steps_of(engine: str) -> tuple[str, ...]:
    """List the steps of a drill of *engine*: those that prove something of it."""
    return tuple(step for step in STEPS if claims_of(step, engine=engine))
