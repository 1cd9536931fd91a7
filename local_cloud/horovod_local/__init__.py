"""
AWS on this machine: an unchanged `cdk.out`, deployed and run for real, without an account.

```python
from pathlib import Path
from horovod_local import LocalCloud

with LocalCloud() as cloud:
    outputs = cloud.deploy(Path("cdk.out"))
    stepfunctions = cloud.client("stepfunctions")
    ...
```

or from a shell, with the CDK CLI's `cdk bootstrap` and `cdk deploy` as an alternative to the second line:

```
python -m horovod_local serve --port 5000 &
python -m horovod_local deploy cdk.out
```

A server process on 127.0.0.1 answers the AWS APIs: moto 5.2.5, pinned exactly, with the corrections of
`horovod_local.corrections`, each of which names the deviation from AWS that it removes. State machines are executed,
JSONata included. For every instance that an Auto Scaling group has in service, one real `python -m horovod_node` runs
as a process group of its own, with an address of its own, until the instance is terminated; an agent that dies is an
instance that is gone. Faults can be put in: launches that take time, capacity that EC2 does not have, instances that
lose their power (`LocalCloud.set_faults`, `LocalCloud.lose`).

What a run here proves:

- the templates deploy: order, references between stacks, every property that a run depends on;
- the state machine runs as written: conditions, retries, catches, task tokens with heartbeats, time limits, clean-up;
- groups fill by weight and market, scale to zero, respect protection, and replace what they lose;
- nodes, ring, training, model and receipt: these are the real programs and the real library.

What it does not prove:

- permissions: no IAM policy, bucket policy, key policy or endpoint policy is checked, nothing is encrypted;
- the network: no route, security group, endpoint or name is used, all nodes are one machine;
- what an instance boots: images, user data (its lines for the node are read, not run), the container, GPUs, EFA;
- capacity and prices: Spot interruptions come only when a test asks for them; there are no quotas and no throttling;
- time: launches and terminations take no minutes, nothing is eventually consistent;
- what is accepted without effect (`horovod_local.resource_types`), and schedules of EventBridge rules: `deploy` names
  them. Any other resource type that cannot be created is an error, and so is every custom resource.

Known limits of the emulation:

- State machines must be written in JSONata; moto's JSONPath is as it is. Of `.sync` integrations only
  `states:startExecution` is known to work. Express executions, activities and redrive are not supported.
- JSONata is evaluated by jsonata-python 0.7.1. Numbers beyond 2^53 keep their digits here and lose them on AWS. The
  texts of errors differ from AWS's; their names do not. An error in a state's own `Output` ends the execution; whether
  AWS lets a `Catch` of the same state have it was not confirmed, so do not rely on it.
- Auto Scaling knows no lifecycle hooks, warm pools, health checks, rebalancing or allocation strategies: the first
  override that fits is launched, in the next zone in turn.
- A second deployment changes state machines, groups, launch templates and outputs in place; a change to a type that
  cannot be changed is refused.
"""

from horovod_local.cloud import LocalCloud
from horovod_local.errors import LocalCloudError
from horovod_local.faults import Faults, Refusal
from horovod_local.instances import LocalInstance

__all__ = ["Faults", "LocalCloud", "LocalCloudError", "LocalInstance", "Refusal"]
