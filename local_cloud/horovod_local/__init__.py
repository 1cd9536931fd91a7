"""
AWS on this machine: an unchanged `cdk.out` is deployed and run for real, without an account.

```python
from pathlib import Path
from horovod_local import LocalCloud

with LocalCloud() as cloud:
    outputs = cloud.deploy(Path("cdk.out"))
    stepfunctions = cloud.client("stepfunctions")
    ...
```

`cdk-horovod local up` starts one in the background of a shell (`horovod_local.background`). To run one in the
foreground, use the two commands below; the CDK CLI's `cdk bootstrap` and `cdk deploy` can replace the second one:

```
python -m horovod_local serve --port 5000 &
python -m horovod_local deploy cdk.out
```

The cloud runs commands, as EC2 does with user data, so it answers only requests that are signed with one of its own
access keys (`authentication.py`). Clients made here have the administrator's key; `LocalCloud.environment` and
`cdk-horovod local env` pass it to other processes. It is stored in the file `access-key` of the cloud's home, which
only its owner can read.

A server process on 127.0.0.1 answers the AWS APIs. It is moto 5.2.5, pinned exactly, with the corrections of
`horovod_local.corrections`, each of which names the deviation from AWS that it removes. State machines are executed,
JSONata included. Every instance that an Auto Scaling group has in service is a real `python -m horovod_node` process
group with its own address, and with its own folder at `/opt/ml` where the machine permits mount namespaces
(`instances.private_mount`). The dead-man's switch that the user data writes runs beside it, with the real AWS CLI. An
instance ends when something terminates it, not when its agent dies. EventBridge rules fire, scheduled ones included
(`LocalCloud(schedule_speed=…)`).

An instance whose user data configures the ECS container agent registers in its cluster, and daemon services give it
tasks, as Amazon ECS does: by placement constraints, CPU, memory, ports and GPUs, with deployments, draining and events.
A task's containers are real processes with its mounts, the credentials of its task role and its metadata.

Every host of a SageMaker training job is a real `python -m horovod_node train` process with its own address, `/opt/ml`
and `/etc/hosts`, and the files and variables that SageMaker gives to containers (`training_jobs`). Where the machine
does not permit mount namespaces, training jobs fail and say so.

Faults can be injected: slow launches and terminations, EC2 capacity errors, agents and switches that do not start,
container agents that do not connect, images that cannot be pulled, training jobs that wait for capacity, AWS requests
that fail, are late or get no answer (`LocalCloud.set_faults`), instances that lose power (`LocalCloud.lose`) or become
unreachable (`LocalCloud.drop`), hosts of training jobs that are lost (`LocalCloud.lose_training_host`), and jobs that
are interrupted (`LocalCloud.interrupt_training_job`). Every instance has instance metadata, version 2, in which a Spot
Instance finds its interruption notices (`LocalCloud.interrupt`, `LocalCloud.recommend_rebalance`); EventBridge gets
them too.

What a run here proves:

- The templates deploy: order, references between stacks, and every property that a run depends on.
- The state machine runs as written: conditions, retries, catches, task tokens with heartbeats, time limits, clean-up.
  SDK calls must be spelt as AWS expects (`horovod_client.aws.java_names`); creating a state machine with any other
  spelling fails.
- Groups fill by weight, market and allocation strategy, scale to zero, respect protection and standby, and replace
  lost instances and those that a changed market policy no longer fits. EC2 answers a launch a moment later, or much
  later.
- Training jobs go through SageMaker's statuses, keep their time limits, stop as SageMaker stops them, and are billed by
  its clock. What the API's model, the documentation or the default quotas do not permit is refused; what is not acted
  here is refused, too (`corrections.sagemaker.request_rules`).
- The quotas that a run could meet hold: payloads, histories, items, pages, transactions, expressions.
- Nodes, ring, training, model and receipt work: these are the real programs and the real library.
- The permissions suffice. Every request of a state machine, a rule, a node, its switch or its script, and of a client
  that acts as a role (`LocalCloud.client(…, role_arn=…)`), is checked against the deployed policies of identities,
  buckets, keys, topics and VPC endpoints, with their conditions, as IAM documents it; what AWS would deny is denied.
  `LocalCloud.permissions` lists the statements that were used and the requests that were denied. The administrator, who
  deploys and tests, may do whatever no policy denies.

What it does not prove:

- Checks of AWS that its documentation does not mention; permissions boundaries, organisations and other accounts;
  what services do on their own: access logs of buckets, flow logs, traces, alarms, image pulls of instances, logs and
  metrics of training jobs (`tests/local` lists the statements that nothing here uses). Requests count as made over
  TLS, and nothing is encrypted.
- The network: no route, security group, endpoint or name is used; all nodes are one machine.
- What an instance boots: images, user data (the files that it writes are read, the script is not run), systemd, the
  container, GPUs, EFA. The AWS CLI here is version 1; machine images have version 2.
- Capacity and prices: Spot interruptions, quotas and throttling happen only when a test asks for them, and prices are a
  table (`shared.price_list`). An interrupted instance is not shut down first, and gets no more warning than was asked
  for.
- Instance metadata as the source of a node's facts: here nodes take them from their environment, and only interruption
  notices from the metadata. The containers of ECS tasks do ask it, except for network interface and GPUs.
- Whether ECS gives the tasks of daemon services GPUs, how long it takes to place them, and in which order it places
  several daemons: its documentation does not say.
- Time: launches and terminations are immediate unless a test delays them, and nothing is eventually consistent.
- Resource types that are accepted without effect (`shared.resource_types`) and `cron` schedules: `deploy` names them.
  Any other resource type that cannot be created is an error, and so is every custom resource.

Known limits of the emulation:

- State machines must be written in JSONata; moto's JSONPath is uncorrected. Of the `.sync` integrations only
  `states:startExecution` is known to work; the rule that it needs on AWS is not created, but the role must be allowed
  to create it. Express state machines run as Standard ones, without AWS's limit of five minutes; their failures are
  written to the server's log. Activities and redrive are not supported.
- JSONata is evaluated by jsonata-python 0.7.1. Numbers beyond 2^53 keep their digits here and lose them on AWS. Error
  names are AWS's; error messages are not. An error in a state's own `Output` ends the execution; whether AWS lets a
  `Catch` of the same state handle it was not confirmed, so do not rely on it.
- ECS runs daemon services only, on instances of Auto Scaling groups: other services, RunTask, capacity providers and
  whatever else would change what a task does are refused, as are EventBridge rules for its events. The containers'
  output goes to files, not to CloudWatch Logs. Of the agent's configuration, `ECS_CLUSTER`, `ECS_INSTANCE_ATTRIBUTES`,
  `ECS_IMAGE_PULL_BEHAVIOR` and `ECS_ENABLE_GPU_SUPPORT` have an effect.
- AWS does not document whether one failed container ends a training job at once, or what its containers get before a
  Spot interruption: here it does, and they get nothing. Their output goes to files, not to CloudWatch Logs, and
  EventBridge rules for events of SageMaker are refused.
- Auto Scaling has no lifecycle hooks, warm pools, health checks or zone rebalancing: each launch uses the next zone in
  turn. All Spot pools have the same capacity, so strategies that consider capacity choose by price.
- A second deployment changes state machines, groups, launch templates and outputs in place; a change to a type that
  cannot be changed is refused.
"""

from horovod_local.cloud import LocalCloud
from horovod_local.errors import LocalCloudError
from horovod_local.instances.machine import LocalInstance
from horovod_local.shared.faults import ApiFault, Faults, Refusal
from horovod_local.training_jobs.host import LocalTrainingHost

__all__ = ["ApiFault", "Faults", "LocalCloud", "LocalCloudError", "LocalInstance", "LocalTrainingHost", "Refusal"]
