"""A node's part in one attempt: the facts and clients that all parts of the agent share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from horovod_node.ledger.ledger import Lease, Ledger, Run
from horovod_node.node.conduct import Conduct, EndsWithItsPart
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node
from horovod_node.node.log_shipping import LogShipping
from horovod_node.node.rank_output import RankOutput, print_line

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient


@dataclass(frozen=True, kw_only=True)
class NodeAttempt:
    """
    One node's part in one attempt of a run.

    Args:
        node: This node.
        lease: The lease that names the run and the attempt.
        run: The run's request and settings.
        layout: The node's folders.
        ledger: The ledger, with calls repeated while DynamoDB is unreachable.
        s3: boto3 client.
        stepfunctions: boto3 client.
        conduct: The engine's rules for this node. Default: those of EC2.
        output: Receives the lines that ranks print. Default: they are printed among the agent's own.
        shipping: Receives the node's metrics. Default: none are sent.
    """

    node: Node
    lease: Lease
    run: Run
    layout: Layout
    ledger: Ledger
    s3: S3Client
    stepfunctions: SFNClient
    conduct: Conduct = field(default_factory=EndsWithItsPart)
    output: RankOutput = print_line
    shipping: LogShipping | None = None
