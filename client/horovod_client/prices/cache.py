"""Cache of prices on disk."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CachedPrices:
    """
    The prices of one instance type in one market.

    Args:
        at: Time of AWS's answer, in epoch seconds.
        usd: USD an hour by zone; the zone of On-Demand prices is ''.
    """

    at: float
    usd: Mapping[str, float]


class PriceCache:
    """
    A folder of JSON files, one for each endpoint, Region, market and type; processes may share it.

    A damaged or unreadable file counts as missing. If the folder cannot be written, prices are looked up each time.

    Args:
        folder: The folder. Default: `cdk-horovod/prices` in XDG_CACHE_HOME or `~/.cache`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()

    def read(self, *key: str) -> CachedPrices | None:
        """Return the prices under *key*; None if there are none that can be used."""
        try:
            found = json.loads(self._file(key).read_bytes())
            cached = CachedPrices(at=float(found["at"]), usd={str(z): float(usd) for z, usd in found["usd"].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return cached if cached.usd and all(math.isfinite(n) for n in (cached.at, *cached.usd.values())) else None

    def write(self, *key: str, prices: CachedPrices) -> None:
        """Write *prices* under *key* atomically."""
        file = self._file(key)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump({"at": prices.at, "usd": dict(prices.usd)}, stream)
                Path(temporary).replace(file)
            except OSError:
                Path(temporary).unlink()

    def _file(self, key: tuple[str, ...]) -> Path:
        *folders, name = (part.replace(os.sep, "-").replace(":", "-") for part in key)
        return self._folder.joinpath(*folders, f"{name}.json")


def default_folder() -> Path:
    """Return the user's folder for prices."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore relative paths.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "cdk-horovod" / "prices"
