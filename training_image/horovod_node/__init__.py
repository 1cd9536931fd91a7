"""The agent that turns an instance into a node of a Horovod ring, and leaves when the run is over."""

from typing import Final

__version__: Final = "0.1.0"
"""The library's version, the same as in `pyproject.toml`; an image holds this package without its metadata."""
