"""The agent, which makes an instance a node of a Horovod ring until the run is over."""

from typing import Final

__version__: Final = "0.1.0"
"""The library's version, as in `pyproject.toml`: the image has this package without its metadata."""
