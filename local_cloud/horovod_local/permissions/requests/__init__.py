"""
The permissions that each request needs: actions, resources and condition keys.

Sources: Service Authorization Reference, "Actions, resources, and condition keys for …", one page for each service, and
the sources that each module names. An operation that no module has is an error, except for the administrator.
"""

from horovod_local.permissions.requests.service_request import RequiredPermission, ServiceRequest, UnknownOperationError
from horovod_local.permissions.requests.services import required_permissions

__all__ = ["RequiredPermission", "ServiceRequest", "UnknownOperationError", "required_permissions"]
