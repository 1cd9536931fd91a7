"""
From a request to what its service checks: actions, resources, condition keys.

Sources: Service Authorization Reference, "Actions, resources, and condition keys for …", one page for each service, and
what each module names besides. An operation that stands in none of the modules is an error for whoever is checked.
"""

from horovod_local.permissions.requests.asked import Asked, Check, UnknownOperationError
from horovod_local.permissions.requests.services import checks

__all__ = ["Asked", "Check", "UnknownOperationError", "checks"]
