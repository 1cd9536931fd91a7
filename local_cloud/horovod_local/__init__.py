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

or in the background of a shell, by `cdk-horovod local up` (`horovod_local.background`); or in its foreground, with the
CDK CLI's `cdk bootstrap` and `cdk deploy` as an alternative to the second line:

```
python -m horovod_local serve --port 5000 &
python -m horovod_local deploy cdk.out
```

The cloud runs commands, as EC2 does with user data, so it answers only who holds an access key of its own
(`authentication.py`). Clients made here have it, and `LocalCloud.environment` and `cdk-horovod local env` hand it on.
It is in the file `access-key` of the cloud's home, which its owner alone may read.

A server process on 127.0.0.1 answers the AWS APIs: moto 5.2.5, pinned exactly, with the corrections of
`horovod_local.corrections`, each of which names the deviation from AWS that it removes. State machines are executed,
JSONata included. For every instance that an Auto Scaling group has in service, one real `python -m horovod_node` runs
as a process group of its own, with an address of its own, and with its own folder at `/opt/ml` where the machine
permits mount namespaces (`instances.own_folder`); beside it the dead-man's switch that the user data writes, with
the real AWS CLI. The instance ends when something terminates it, not when its agent dies. Rules of EventBridge fire,
also by time (`LocalCloud(schedule_speed=…)`).

Faults can be put in: launches and terminations that take time, capacity that EC2 does not have, agents and switches
that do not start, requests to AWS that fail, are late or get no answer (`LocalCloud.set_faults`), instances that lose
their power (`LocalCloud.lose`) or fall silent (`LocalCloud.drop`). Every instance has instance metadata, version 2, in
which Spot Instances find the notices of interruptions (`LocalCloud.interrupt`, `LocalCloud.recommend_rebalance`);
EventBridge has them too.

What a run here proves:

- the templates deploy: order, references between stacks, every property that a run depends on;
- the state machine runs as written: conditions, retries, catches, task tokens with heartbeats, time limits, clean-up.
  SDK calls are spelt as AWS wants them (`horovod_client.aws.java_names`): any other is refused at creation;
- groups fill by weight, market and allocation strategy, scale to zero, respect protection and standby, and replace what
  they lose, and what a new market policy does not want. EC2 answers a launch a moment later, or much later;
- quotas that a run could meet: payloads, histories, items, pages, transactions, expressions;
- nodes, ring, training, model and receipt: these are the real programs and the real library;
- the permissions suffice: every request of a state machine, a rule, a node, its switch or its script, and of a client
  that acts as a role (`LocalCloud.client(…, role_arn=…)`), is checked against the deployed policies of identities,
  buckets, keys, topics and VPC endpoints, with their conditions, as IAM documents it; what AWS would deny is denied.
  `LocalCloud.permissions` tells which statements were used, and what was denied. The administrator, who deploys and
  tests, may do whatever no policy denies.

What it does not prove:

- what AWS checks and its documentation does not say; permissions boundaries, organisations and other accounts; what
  services do for themselves: logs of buckets, flow logs, traces, alarms, pulling an image (`tests/local` lists the
  statements that nothing here uses). Requests count as made over TLS, and nothing is encrypted;
- the network: no route, security group, endpoint or name is used, all nodes are one machine;
- what an instance boots: images, user data (the files that it writes are read, not written), systemd, the container,
  GPUs, EFA; and version 2 of the AWS CLI, which machine images have, for here it is version 1;
- capacity and prices: Spot interruptions, quotas and throttling come only when a test asks for them, prices are a table
  (`shared.price_list`), and an interrupted instance gets no shutdown, nor more warning than was asked for;
- instance metadata as the source of a node's facts: nodes take them from their environment here, and only the notices
  from it;
- time: launches and terminations take no minutes unless a test says so, nothing is eventually consistent;
- what is accepted without effect (`shared.resource_types`), and `cron` schedules: `deploy` names them. Any other
  resource type that cannot be created is an error, and so is every custom resource.

Known limits of the emulation:

- State machines must be written in JSONata; moto's JSONPath is as it is. Of `.sync` integrations only
  `states:startExecution` is known to work. Express machines run as Standard ones do, for longer than AWS's five
  minutes if they like; what fails of them is told in the server's log. Activities and redrive are not supported.
- JSONata is evaluated by jsonata-python 0.7.1. Numbers beyond 2^53 keep their digits here and lose them on AWS. The
  texts of errors differ from AWS's; their names do not. An error in a state's own `Output` ends the execution; whether
  AWS lets a `Catch` of the same state have it was not confirmed, so do not rely on it.
- Auto Scaling knows no lifecycle hooks, warm pools, health checks or rebalancing of zones: instances are launched in
  the next zone in turn. Every Spot pool has the same capacity, so that strategies which look at it go by the price.
- A second deployment changes state machines, groups, launch templates and outputs in place; a change to a type that
  cannot be changed is refused.
"""

from horovod_local.cloud import LocalCloud
from horovod_local.errors import LocalCloudError
from horovod_local.instances.machine import LocalInstance
from horovod_local.shared.faults import ApiFault, Faults, Refusal

__all__ = ["ApiFault", "Faults", "LocalCloud", "LocalCloudError", "LocalInstance", "Refusal"]
