"""The properties by which engines are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Fact:
    """
    One property of an engine.

    Args:
        says: A few words for people.
        source: Where a figure, or a statement about AWS, is from. Default: this library decides it.
    """

    says: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Ability:
    """
    Something that an engine can or cannot do.

    Args:
        can: Whether it can.
        how: On what condition, or what happens instead, in a few words. Default: there is nothing to add.
        source: As in `Fact`.
    """

    can: bool
    how: str = ""
    source: str = ""

    @property
    def says(self) -> str:
        """The ability in a few words for people."""
        return ": ".join(part for part in ("yes" if self.can else "no", self.how) if part)


NOT_MEASURED: Final = Fact(says="not measured")
NO_SUCH_STEP: Final = Fact(says="no such step")


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """
    What there is to know about an engine before it is chosen. Another engine is one more value of this class.

    Args:
        name: Its name in `cdk_horovod.Engine`, such as `ec2`.
        nodes: What a node of a run is.
        on_demand_price: How its On-Demand prices relate to EC2's.
        spot_price: Where its Spot prices are known from.
        billed: What time is billed.
        capacity: Time until the provider has the instances.
        boot: Time from then until an instance is ready for containers.
        placement: Time from then until the provider starts the container.
        image_pull: Time to pull the training image.
        joining: Time from the first node that joins to the ring.
        elastic: Whether the ring goes on without a lost node, and grows when others come.
        mixed_markets: Whether one ring has Spot and On-Demand nodes.
        mixed_types: Whether one ring has nodes of several instance types.
        replacement: Whether a lost node is replaced while the others stay.
        spot_notice: Whether a node learns of its Spot interruption beforehand.
        efa: Whether Elastic Fabric Adapters carry the ring.
        early_release: Whether workers end while the leader uploads the model.
        dead_mans_switch: Whether nodes end even if the agent and everything outside of them fails.
        at_rest: What costs money while nothing runs.
        to_own: What the platform team has to own.
        quotas: Whose quotas count.
        type_prefix: Begins its names of EC2's instance types. Default: it uses EC2's names.
        lacking_types: Types of EC2 that it has not. Default: none.
        has_spot_prices: Whether AWS publishes its Spot prices. Default: EC2's are its own.
    """

    name: str
    nodes: Fact

    on_demand_price: Fact
    spot_price: Fact
    billed: Fact

    capacity: Fact
    boot: Fact
    placement: Fact
    image_pull: Fact
    joining: Fact

    elastic: Ability
    mixed_markets: Ability
    mixed_types: Ability
    replacement: Ability
    spot_notice: Ability
    efa: Ability
    early_release: Ability
    dead_mans_switch: Ability

    at_rest: Fact
    to_own: Fact
    quotas: Fact

    type_prefix: str = ""
    lacking_types: frozenset[str] = frozenset()
    has_spot_prices: bool = True

    def type_name(self, instance_type: str) -> str | None:
        """
        Return the engine's name of a type; None if it has not the type.

        Args:
            instance_type: EC2's name, such as `g5.xlarge`.
        """
        return None if instance_type in self.lacking_types else f"{self.type_prefix}{instance_type}"
