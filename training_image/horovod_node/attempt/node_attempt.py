"""What an agent works on: the facts that all its parts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from horovod_node.ledger.ledger import Lease, Ledger, Run
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
        lease: The run and the attempt that it works for.
        run: What they ask for.
        layout: The node's folders.
        ledger: Patient access to the ledger.
        s3: boto3 client.
        stepfunctions: boto3 client.
        output: Takes the lines that ranks print. Default: they are printed among the agent's own.
        shipping: Takes the node's metrics. Default: there are none.
    """

    node: Node
    lease: Lease
    run: Run
    layout: Layout
    ledger: Ledger
    s3: S3Client
    stepfunctions: SFNClient
    output: RankOutput = print_line
    shipping: LogShipping | None = None
