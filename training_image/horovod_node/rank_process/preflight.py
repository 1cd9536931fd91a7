"""
Refuses a script that would silently train without averaging.

Horovod 0.28.1 averages gradients by overriding methods of Keras 2's optimizers. Keras 3, the default of TensorFlow 2.16
and later, never calls them: `hvd.DistributedOptimizer` then runs, prints a falling loss, and each rank trains alone.
Measured with TensorFlow 2.18.1: after 3 epochs the ranks' weights differ by 0.06; with Keras 2 by exactly 0.

Two looks: one at the script's text, before the node says that it is ready, when the installed versions leave no doubt;
and one at the optimizer itself, on every rank, when the script hands it to Horovod.
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
"""Modules whose `DistributedOptimizer` works with Keras 2 only; `horovod.tensorflow` hands Keras optimizers to them."""
HELPER: Final = "horovod_node.training"
"""Averages gradients of every Keras, and recovers."""
TORCH_HELPER: Final = "horovod_node.torch_training"
"""Recovers, under PyTorch."""
ENV_LEGACY_KERAS: Final = "TF_USE_LEGACY_KERAS"
"""TensorFlow's own switch to tf-keras."""

REASON: Final = (
    "hvd.DistributedOptimizer does not average gradients of a Keras 3 optimizer: every rank would train alone, without "
    "an error. Use horovod_node.training, whose optimizer does; or set TF_USE_LEGACY_KERAS=1 before TensorFlow is "
    "imported (needs the tf-keras package), or use a training image with TensorFlow 2.15."
)

_KERAS_3_BASE = "keras.src.optimizers.base_optimizer.BaseOptimizer"
_TRUE = ("true", "1")
"""What TensorFlow takes for a yes (tensorflow/python/util/lazy_loader.py)."""


class PreflightError(BaseException):
    """
    The script must not train.

    Not an `Exception`: a script that says `except Exception` around its set-up would go on with the very training that
    is refused here.
    """


@dataclass(frozen=True, kw_only=True)
class KerasFacts:
    """
    What decides which Keras `tf.keras` is.

    Args:
        tensorflow: Its version; empty when it is not installed.
        keras: Version of the keras package; empty when it is not installed.
        legacy: Whether `TF_USE_LEGACY_KERAS` is set to yes.
    """

    tensorflow: str
    keras: str
    legacy: bool

    @property
    def is_keras_3(self) -> bool:
        """Whether `tf.keras` is Keras 3."""
        return _numbers(self.tensorflow) >= (2, 16) and _numbers(self.keras) >= (3,) and not self.legacy


def installed_keras(environment: Mapping[str, str]) -> KerasFacts:
    """Look at the installed packages, importing none of them."""
    return KerasFacts(
        tensorflow=_version("tensorflow") or _version("tensorflow-cpu"),
        keras=_version("keras"),
        legacy=environment.get(ENV_LEGACY_KERAS, "").lower() in _TRUE,
    )


def refusal(source: str, facts: KerasFacts) -> str | None:
    """
    Tell why the script with this *source* must not start, or `None`.

    Only a script that leaves no doubt is refused here; one that mentions tf-keras in any way may know what it does, and
    its optimizer is looked at when it hands it to Horovod.
    """
    if not facts.is_keras_3 or ENV_LEGACY_KERAS in source or "tf_keras" in source:
        return None
    try:
        tree = ast.parse(source)
    except SyntaxError:  # Python will say it better
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
    Whether the script with this *source* shows that it can go on when ranks are lost.

    It does with `horovod_node.training` and `horovod_node.torch_training`, and with Horovod's own `hvd.elastic`. One
    that mentions elasticity in any other way is believed: it may import a module that does it.
    """
    if "elastic" in source:
        return True
    try:
        tree = ast.parse(source)
    except SyntaxError:  # Python will say it better
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
    """Give what must happen after the import of which module, so that every optimizer is looked at."""
    return dict.fromkeys(HOROVOD_MODULES, _guard)


def check_optimizer(optimizer: Any) -> None:
    """
    Look at an optimizer that is about to be distributed.

    Raises:
        PreflightError: If it is one of Keras 3.
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
