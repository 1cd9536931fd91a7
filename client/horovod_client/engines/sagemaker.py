"""The engine `Engine.sagemaker`: containers of SageMaker training jobs."""

from __future__ import annotations

from typing import Final

from horovod_client.engines.facts import NO_SUCH_STEP, NOT_MEASURED, Ability, EngineFacts, Fact
from horovod_node import contract

_LOG: Final = (
    "log of a job of two ml.p3dn.24xlarge with Hugging Face's image, 2021: "
    "huggingface.co/blog/sagemaker-distributed-training-seq2seq"
)

SAGEMAKER: Final = EngineFacts(
    name="sagemaker",
    nodes=Fact(says="container of a training job"),
    on_demand_price=Fact(
        says="1.15 to 1.40 times EC2's",
        source="list prices of six types of P3, P4d, G5 and G6 in us-east-1 and us-west-2, collected in 2026",
    ),
    spot_price=Fact(says="known only from the bill", source="docs/adr/0020-sagemaker-runs-nodes.md"),
    billed=Fact(
        says="the job, with image pull and uploads; not the wait for capacity",
        source='SageMaker API Reference, "DescribeTrainingJob": TrainingStartTime, TrainingEndTime',
    ),
    capacity=Fact(
        says="28 to 58 min for three On-Demand jobs",
        source="in us-west-2, 2026: github.com/Boise-State-Development/agentcore-public-stack/pull/1025",
    ),
    boot=Fact(says="2 min 50 s, with capacity", source=_LOG),
    placement=NO_SUCH_STEP,
    image_pull=Fact(says="2 min 29 s", source=_LOG),
    joining=NOT_MEASURED,
    elastic=Ability(can=False, how="a job's instances are fixed"),
    mixed_markets=Ability(can=False, how="one market a job"),
    mixed_types=Ability(can=False, how="one type a job"),
    replacement=Ability(can=False, how="a new job, from the newest checkpoint"),
    spot_notice=Ability(can=False, how="none is documented"),
    efa=Ability(can=False, how="our image has no EFA software"),
    early_release=Ability(can=False, how="all are billed to the job's end"),
    dead_mans_switch=Ability(can=True, how="SageMaker ends the job at its MaxRuntimeInSeconds"),
    at_rest=Fact(
        says="nothing; in an isolated VPC 44 USD a month",
        source="two interface endpoints in three zones, at 0.01 USD an hour in us-east-1",
    ),
    to_own=Fact(says="roles; no VPC, machine image or driver"),
    quotas=Fact(says="SageMaker's: instances by type and market"),
    type_prefix=contract.SAGEMAKER_PREFIX,
    # `TrainingInstanceType` in botocore's model has no such types.
    lacking_types=frozenset({"g4dn.metal", "gr6.4xlarge", "gr6.8xlarge"}),
    has_spot_prices=False,
)
