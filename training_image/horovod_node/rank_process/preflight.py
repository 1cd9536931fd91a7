"""
Refuses a script that would silently train without averaging.

Horovod 0.28.1 averages gradients by overriding methods of Keras 2's optimizers. Keras 3, the default of TensorFlow 2.16
and later, never calls them: a script with `hvd.DistributedOptimizer` runs, its loss falls, and each rank trains alone.
Measured with TensorFlow 2.18.1: after 3 epochs the ranks' weights differ by 0.06; with Keras 2 by exactly 0.

There are two checks. The first reads the script's text before the node is ready; it refuses only what the installed
versions make certain. The second checks the optimizer itself, on every rank, when the script passes it to Horovod.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from horovod_node import contract

HOROVOD_MODULES: Final = ("horovod.tensorflow.keras", "horovod.keras")
"""Modules whose `DistributedOptimizer` works with Keras 2 only; `horovod.tensorflow` uses them for Keras optimizers."""
HELPER: Final = "horovod_node.training"
"""Averages gradients under Keras 2 and Keras 3, and recovers from lost ranks."""
TORCH_HELPER: Final = "horovod_node.torch_training"
"""Recovers from lost ranks, under PyTorch."""
ENV_LEGACY_KERAS: Final = "TF_USE_LEGACY_KERAS"
"""TensorFlow's switch to tf-keras."""

REASON: Final = (
    "hvd.DistributedOptimizer does not average gradients of a Keras 3 optimizer: every rank would train alone, without "
    "an error. Use horovod_node.training, whose optimizer does; or set TF_USE_LEGACY_KERAS=1 before TensorFlow is "
    "imported (needs the tf-keras package), or use a training image with TensorFlow 2.15."
)

_KERAS_3_BASE = "keras.src.optimizers.base_optimizer.BaseOptimizer"
_TRUE = ("true", "1")
"""Values of `TF_USE_LEGACY_KERAS` that TensorFlow takes as true (tensorflow/python/util/lazy_loader.py)."""


class PreflightError(BaseException):
    """
    The script must not train.

    It is not an `Exception`: a script with `except Exception` around its set-up would continue with the training that
    is refused here.
    """


@dataclass(frozen=True, kw_only=True)
class KerasFacts:
    """
    The facts that decide whether `tf.keras` is Keras 2 or Keras 3.

    Args:
        tensorflow: Version of TensorFlow; empty if it is not installed.
        keras: Version of the keras package; empty if it is not installed.
        legacy: Whether `TF_USE_LEGACY_KERAS` is true.
    """

    tensorflow: str
    keras: str
    legacy: bool

    @property
    def is_keras_3(self) -> bool:
        """Whether `tf.keras` is Keras 3."""
        return _numbers(self.tensorflow) >= (2, 16) and _numbers(self.keras) >= (3,) and not self.legacy


def installed_keras(environment: Mapping[str, str]) -> KerasFacts:
    """Read the versions of the installed packages, without importing them."""
    return KerasFacts(
        tensorflow=_version("tensorflow") or _version("tensorflow-cpu"),
        keras=_version("keras"),
        legacy=environment.get(ENV_LEGACY_KERAS, "").lower() in _TRUE,
    )


def refusal(source: str, facts: KerasFacts) -> str | None:
    """
    Return why the script with this *source* must not start; `None` if it may.

    A script that mentions tf-keras in any way is not refused here: its optimizer is checked when the script passes it
    to Horovod.
    """
    if not facts.is_keras_3 or ENV_LEGACY_KERAS in source or "tf_keras" in source:
        return None
    try:
        tree = ast.parse(source)
    except SyntaxError:  # Python reports it when it runs the script
        return None
    aliases = _horovod_names(tree)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _dotted(call.func) in aliases:
            return f"Line {call.lineno}: {REASON}"
    return None


NOT_ELASTIC: Final = (
    f"'{contract.MIN_GPUS}' is less than '{contract.GPUS}', but the script would not go on when a node is lost: train "
    f"with horovod_node.training, horovod_node.torch_training or hvd.elastic, or leave '{contract.MIN_GPUS}' out."
)


def is_elastic(source: str) -> bool:
    """
    Whether the script with this *source* appears to continue when ranks are lost.

    Scripts with `horovod_node.training`, `horovod_node.torch_training` or Horovod's `hvd.elastic` do. So may any script
    with the word "elastic", which could import a module that uses one of them.
    """
    if "elastic" in source:
        return True
    try:
        tree = ast.parse(source)
    except SyntaxError:  # Python reports it when it runs the script
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        if any(f"{module}.".startswith((HELPER + ".", TORCH_HELPER + ".")) for module in modules):
            return True
    return False


def hooks() -> dict[str, Callable[[ModuleType], None]]:
    """Return the hooks that check every optimizer, by the module after whose import they run."""
    return dict.fromkeys(HOROVOD_MODULES, _guard)


def check_optimizer(optimizer: Any) -> None:
    """
    Check an optimizer that is about to be distributed.

    Raises:
        PreflightError: If it is a Keras 3 optimizer.
    """
    bases = (f"{base.__module__}.{base.__qualname__}" for base in type(optimizer).__mro__)
    if _KERAS_3_BASE in bases:
        raise PreflightError(REASON)


def _guard(module: ModuleType) -> None:
    distribute = module.DistributedOptimizer

    @functools.wraps(distribute)
    def check_and_distribute(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        check_optimizer(optimizer)
        return distribute(optimizer, *args, **kwargs)

    module.DistributedOptimizer = check_and_distribute  # type: ignore[attr-defined]  # the guard


def _horovod_names(tree: ast.Module) -> set[str]:
    """Collect every name under which the script can call `DistributedOptimizer`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in HOROVOD_MODULES:
                    names.add(f"{alias.asname or alias.name}.DistributedOptimizer")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if node.module in HOROVOD_MODULES and alias.name == "DistributedOptimizer":
                    names.add(alias.asname or alias.name)
                elif f"{node.module}.{alias.name}" in HOROVOD_MODULES:
                    names.add(f"{alias.asname or alias.name}.DistributedOptimizer")
    return names


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:2]:
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
