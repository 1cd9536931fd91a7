"""Runs hooks after the script imports certain modules."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType


class AfterImport(importlib.abc.MetaPathFinder):
    """
    A finder that runs a hook after a named module was imported.

    An early import of the module, instead of a hook, would read `TF_USE_LEGACY_KERAS` and the like before the script
    can set them, and would cost seconds in a script that does not use TensorFlow.

    Args:
        hooks: Full module name to the function that is called with the module, once. If a hook fails, its error is
            printed, and the script's import succeeds all the same.
    """

    def __init__(self, hooks: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._hooks = dict(hooks)

    def install(self) -> None:
        """Start to watch imports. Hooks of modules that are already imported run at once."""
        for name in list(self._hooks):
            if name in sys.modules:
                _run(self._hooks.pop(name), sys.modules[name])
        sys.meta_path.insert(0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the signature is the protocol's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module with the other finders, and run the hook after its execution."""
        # The hook is removed first, because the search below calls this method again.
        hook = self._hooks.pop(fullname, None)
        if hook is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader
        execute = loader.exec_module

        def execute_and_hook(module: ModuleType) -> None:
            execute(module)
            _run(hook, module)

        loader.exec_module = execute_and_hook  # type: ignore[method-assign]  # this one loader, not its class
        return spec


def _run(hook: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        hook(module)
    except Exception as error:
        print(f"cdk-horovod does not know this {module.__name__}, and leaves it as it is: {error!r}", file=sys.stderr)
