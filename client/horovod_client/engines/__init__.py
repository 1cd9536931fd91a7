"""What each engine of this library costs, can do and needs: facts for people who choose one."""

from horovod_client.engines.ec2 import EC2
from horovod_client.engines.ecs import ECS
from horovod_client.engines.sagemaker import SAGEMAKER

ENGINES = (EC2, ECS, SAGEMAKER)
"""All engines, in the order in which they are shown; the default one first."""
