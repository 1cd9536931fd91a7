"""Several engines for one training: a run goes on to the next one when an engine has no nodes for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NO_OUTPUT, named_apart
from cdk_horovod.asl.steps import Fork, Steps
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, IEngine, IFleetStates

MOST_ENGINES = 3
"""With each further engine a waiting run polls the queue less often, see `run_timeouts.EVENTS_OF_AN_ENGINE`."""


class FirstAvailableEngine:
    """
    Runs nodes on the first of several engines that has a free fleet with capacity.

    Creates what these engines create.

    Args:
        engines: Two or three engines, in the order in which a run tries them.

    Raises:
        ValueError: If there are fewer or more engines, or one of them is there twice.
    """

    def __init__(self, *, engines: Sequence[IEngine]) -> None:
        flat = [each for engine in engines for each in _members(engine)]
        if not 2 <= len(flat) <= MOST_ENGINES:
            raise ValueError(f"'engines' must be from 2 to {MOST_ENGINES} engines, got {len(flat)}")
        if len({id(engine) for engine in flat}) < len(flat):
            raise ValueError("'engines' must be different ones, got one of them twice")
        self.engines: tuple[IEngine, ...] = tuple(flat)

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Bind every engine, and join their fleets and states.

        Raises:
            ValueError: If two engines have fleets of the same name, or one of them cannot be bound.
        """
        configs = [
            engine.bind(Construct(scope, f"Engine{number}"), target) for number, engine in enumerate(self.engines, 1)
        ]
        ids = Counter(fleet.id for config in configs for fleet in config.fleets)
        twice = [name for name, count in ids.items() if count > 1]
        if twice:
            raise ValueError(
                f"'engines' must have fleets of different names, got {', '.join(twice)} twice; give all instance types "
                "to one Engine.sagemaker"
            )
        named = _named_apart(configs)
        return EngineConfig(
            fleets=tuple(fleet for config in named.values() for fleet in config.fleets),
            states=_ForkedStates({name: config.states for name, config in named.items()}),
            reads=tuple(dict.fromkeys(action for config in configs for action in config.reads)),
            reads_by_resource={arn: actions for config in configs for arn, actions in config.reads_by_resource.items()},
            statements=tuple(statement for config in configs for statement in config.statements),
            wildcards={arn: reason for config in configs for arn, reason in config.wildcards.items()},
        )


def _members(engine: IEngine) -> Sequence[IEngine]:
    return engine.engines if isinstance(engine, FirstAvailableEngine) else (engine,)


def _named_apart(configs: Sequence[EngineConfig]) -> Mapping[str, EngineConfig]:
    """Return the engines by their names, with a number for the second and third of the same name."""
    named: dict[str, EngineConfig] = {}
    for config in configs:
        (name,) = config.names
        same = sum(other.split(" ")[0] == name for other in named)
        name = f"{name} {same + 1}" if same else name
        named[name] = replace(config, fleets=tuple(replace(fleet, engine=name) for fleet in config.fleets))
    return named


class _ForkedStates:
    """
    Builds each step once for every engine, behind a choice of the fleet's engine.

    Args:
        states: Builds the states of each engine, by the engine's name.
    """

    def __init__(self, states: Mapping[str, IFleetStates]) -> None:
        self._states = states

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        return self._fork(scope, "Who starts nodes?", lambda states, place: states.start(place, assign=assign))

    def tag(self, scope: Construct) -> Steps:
        return self._fork(scope, "Who tags nodes?", lambda states, place: states.tag(place))

    def look(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]]) -> Steps:
        return self._fork(scope, "Who sees nodes?", lambda states, place: states.look(place, judged=judged))

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        return self._fork(scope, "Who knows why?", lambda states, place: states.explain(place, judged=judged))

    def replace(self, scope: Construct) -> Steps:
        return self._fork(scope, "Who replaces the leader?", lambda states, place: states.replace(place))

    def restore(self, scope: Construct) -> Steps:
        return self._fork(scope, "Who restores the fleet?", lambda states, place: states.restore(place))

    def terminate(self, scope: Construct) -> Steps:
        return self._fork(scope, "Who terminates nodes?", lambda states, place: states.terminate(place))

    def confirm(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None) -> Steps:
        return self._fork(
            scope, "Who confirms that nothing runs?", lambda states, place: states.confirm(place, judged=judged)
        )

    def end(self, scope: Construct) -> Steps:
        return self._fork(scope, "Who ends what stays?", lambda states, place: states.end(place))

    def bill(self, scope: Construct) -> Steps:
        return self._fork(scope, "Who bills the run?", lambda states, place: states.bill(place))

    def _fork(self, scope: Construct, question: str, build: Callable[[IFleetStates, Construct], Steps]) -> Steps:
        branches: dict[str, Steps] = {}
        for engine, states in self._states.items():
            prefix = f"{engine}: "
            place = named_apart(scope, f"{question} {engine}", prefix=prefix)
            branches[f"$fleet.engine = '{engine}'"] = build(states, place)
            for state in place.node.find_all():
                if isinstance(state, sfn.State) and not state.state_id.startswith(prefix):
                    state.add_prefix(prefix)
        if not any(branches.values()):
            return ()
        return (Fork(choice=sfn.Choice.jsonata(scope, question, outputs=NO_OUTPUT), branches=branches),)
