#!/usr/bin/env bash
# The end of user data where the agent of Amazon ECS starts the training container, as a task: on an ECS-optimized GPU AMI.
# It follows node_boot.sh in the same shell, whose variables and functions it uses.
# shellcheck disable=SC2154

# This AMI is built from AL2023's minimal one, and its recipe (aws/amazon-ecs-ami) does not name the AWS CLI, without
# which the switch cannot see that its run is alive.
command -v aws >/dev/null || retry "install the AWS CLI" dnf install --quiet --assumeyes awscli-2
# Best effort: without it people only see the node later.
(trap - ERR; give_sign) >/dev/null 2>&1 &

# The task definition mounts a folder whose name is the same on every host.
if [[ $ml_root != '@HOST_ML_ROOT@' ]]; then
  mkdir -p '@HOST_ML_ROOT@'
  mount --bind "$ml_root" '@HOST_ML_ROOT@'
fi
link_gpus
# The agent asks by a file: ECS would start it again if it ended.
leave_by leave
cat > '/etc/systemd/system/cdk-horovod-part-over.path' <<'PATH_UNIT'
[Path]
PathExists=@HOST_ML_ROOT@/@PART_OVER_FILE@
PATH_UNIT
systemctl daemon-reload
systemctl start cdk-horovod-part-over.path
# At the end: the agent starts when user data has ended, in the cluster that this file names. After a failure above it
# finds no cluster that its role may join.
mkdir -p /etc/ecs
cat > '/etc/ecs/ecs.config' <<'ECS_CONFIG'
@AGENT_CONFIG@
ECS_CONFIG
say "node joins its cluster"
# For `give_sign`, if it still runs.
wait
