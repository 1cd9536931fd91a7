"""The local cloud."""

from horovod_local.cloud import LocalCloud
from horovod_local.errors import LocalCloudError
from horovod_local.faults import Faults, Refusal
from horovod_local.instances import LocalInstance

__all__ = ["Faults", "LocalCloud", "LocalCloudError", "LocalInstance", "Refusal"]
