#!/usr/bin/env bash
# Turns an instance into a node: writes the node's environment, sets the dead-man's switch, and starts the container
# whose entry point is `python -m horovod_node`. cloud-init runs it once, as root, on an AWS Deep Learning Base GPU AMI
# (Amazon Linux 2023: Docker, the NVIDIA container toolkit and the AWS CLI are there). What it prints goes to the
# instance's console.
#
# cdk_horovod.engines.user_data replaces the words between at-signs; without them this is the script that instances run.
set -Eeuo pipefail

image='@IMAGE@'
log_group='@LOG_GROUP@'
region='@REGION@'
# The host's folder that becomes @ML_ROOT@ in the container.
ml_root='@ML_ROOT@'
node=$(cat /var/lib/cloud/data/instance-id)
booted_at=$(sed -n 's/^btime //p' /proc/stat)

say() {
  echo "cdk-horovod: $*" >&2
}

# The instance stays up: its Auto Scaling group would replace one that shut itself down, again and again and at full
# price. The run's own limit on starting nodes ends it, or the switch; the console keeps the reason until then.
fail() {
  trap - ERR
  say "this node cannot start: $*"
  exit 1
}
trap 'fail "line $LINENO of user data ended with exit code $?: $BASH_COMMAND"' ERR

# First what ends this instance, whatever becomes of the rest.
mkdir -p "$(dirname '@NODE_ENV_FILE@')"
cat > '@NODE_ENV_FILE@' <<'NODE_ENV'
@ENVIRONMENT@
NODE_ENV
cat > '@SWITCH_FILE@' <<'DEAD_MANS_SWITCH'
@DEAD_MANS_SWITCH@
DEAD_MANS_SWITCH
cat > '/etc/systemd/system/cdk-horovod-dead-mans-switch.service' <<'UNIT'
[Unit]
Description=Takes this instance out when nothing keeps its run alive any more
StartLimitIntervalSec=0

[Service]
# Optional: without its environment the switch finds no lease, and acts.
EnvironmentFile=-@NODE_ENV_FILE@
ExecStart=/bin/bash @SWITCH_FILE@
Restart=always
RestartSec=5
# The last process that the kernel takes when the script has used up all memory.
OOMScoreAdjust=-1000
StandardError=journal+console

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now cdk-horovod-dead-mans-switch.service

# retry WHAT COMMAND...: up to five tries, with pauses of 2, 4, 8 and 16 s.
retry() {
  local what=$1 pause=2
  shift
  until "$@"; do
    if [ "$pause" -gt 16 ]; then
      fail "could not $what in 5 tries"
    fi
    say "could not $what; next try in $pause s"
    sleep "$pause"
    pause=$((pause * 2))
  done
}

# Prefers the instance store, which is faster than the root volume and already paid for.
use_instance_store() {
  local disk
  if systemctl cat dlami-nvme.service >/dev/null 2>&1; then
    # The AMI's own service makes one volume of all the disks and mounts it. Started again, because user data may come
    # first; then this waits for it.
    systemctl start dlami-nvme.service
  fi
  if mountpoint --quiet /opt/dlami/nvme; then
    ml_root=/opt/dlami/nvme/ml
    return
  fi
  # Other AMIs leave the disks alone: take the first. The link is udev's, from the disk's model and serial number.
  for disk in /dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_*; do
    if [ -b "$disk" ]; then
      blkid "$disk" >/dev/null || mkfs.ext4 -q -E nodiscard "$disk"
      mkdir -p "$ml_root"
      mountpoint --quiet "$ml_root" || mount "$disk" "$ml_root"
      return
    fi
  done
}

ecr_login() {
  aws ecr get-login-password --region "$1" | docker login --username AWS --password-stdin "$2"
}

# Gives the container the Elastic Fabric Adapters that the instance has (any user may open them: the kernel's mode for
# uverbs is 0666, and Docker keeps it). Unless the image brings EFA's software it gets the AMI's, read-only: libfabric,
# NCCL's plugin, and the rdma-core that they were built with, which is newer than Debian's.
hand_over_efa() {
  local device folder file libraries=
  for device in /dev/infiniband/uverbs*; do
    [ -e "$device" ] || return 0
    run+=(--device "$device")
  done
  if [ ! -d /opt/amazon/efa ] || docker run --rm --entrypoint test "$image" -d /opt/amazon/efa; then
    return 0
  fi
  for folder in /opt/amazon/efa /opt/amazon/ofi-nccl /usr/lib64/libibverbs /etc/libibverbs.d; do
    [ ! -d "$folder" ] || run+=(--volume "$folder:$folder:ro")
  done
  for file in libibverbs.so.1 libefa.so.1; do
    [ ! -e "/usr/lib64/$file" ] || run+=(--volume "/usr/lib64/$file:/opt/amazon/rdma-core/$file:ro")
  done
  # The folders of different releases of EFA's installer.
  for folder in /opt/amazon/ofi-nccl/{lib64,lib,lib/x86_64-linux-gnu} /opt/amazon/efa/{lib64,lib}; do
    [ ! -d "$folder" ] || libraries+=$folder:
  done
  run+=(--env "LD_LIBRARY_PATH=$libraries/opt/amazon/rdma-core")
}

metadata() {
  curl --silent --fail --noproxy '*' --max-time 2 "${@:2}" "http://169.254.169.254/latest/$1"
}

# Tells people that this machine pulls the image, for no agent can yet: the item `boot_key` of horovod_node.contract.
give_sign() {
  local run run_id token instance_type zone item
  read -r run run_id < <(timeout 20 aws dynamodb get-item --region "$region" --consistent-read \
    --table-name '@LEDGER_TABLE@' --key '{"pk": {"S": "FLEET#@FLEET@"}, "sk": {"S": "LEASE"}}' \
    --query 'Item.[run.S, run_id.S]' --output text)
  # Nobody's, or that of what empties the fleet.
  [[ -n $run_id && $run_id != None && $run != '#'* ]] || return 0
  token=$(metadata api/token --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60')
  instance_type=$(metadata meta-data/instance-type --header "X-aws-ec2-metadata-token: $token")
  zone=$(metadata meta-data/placement/availability-zone --header "X-aws-ec2-metadata-token: $token")
  printf -v item '"%s": {"S": "%s"}, ' pk 'NODES#@FLEET@#'"$run_id" sk "BOOT#$node" node "$node" \
    state 'pulling the image' instance_type "$instance_type" zone "$zone"
  printf -v item '{%s"booted_at": {"N": "%s"}, "seen_at": {"N": "%s"}, "remove_at": {"N": "%s"}}' "$item" \
    "$booted_at" "$EPOCHSECONDS" $((EPOCHSECONDS + 86400))
  timeout 20 aws dynamodb put-item --region "$region" --table-name '@LEDGER_TABLE@' --item "$item"
}

use_instance_store
# Whatever user the image names must be able to write here; nothing else runs on this machine.
mkdir -p "$ml_root"
chmod 1777 "$ml_root"

systemctl start docker.service
# The registry's password lasts 12 hours; it goes when this script ends.
DOCKER_CONFIG=$(mktemp -d)
export DOCKER_CONFIG
trap 'rm -rf "$DOCKER_CONFIG"' EXIT
registry=${image%%/*}
if [[ $registry =~ ^[0-9]{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\. ]]; then
  retry "log in to $registry" ecr_login "${BASH_REMATCH[2]}" "$registry"
fi
# Best effort: without it the node is only not seen so early.
(trap - ERR; give_sign) >/dev/null 2>&1 &
pull_began_at=$EPOCHSECONDS
retry "pull $image" docker pull --quiet "$image"
pulled_at=$EPOCHSECONDS
digest=$(docker image inspect --format '{{index .RepoDigests 0}}' "$image" 2>/dev/null) || digest=

# After `systemctl daemon-reload`, or when systemd touches the container's devices for another reason, processes that a
# container starts later, as an elastic ring does, get no GPU unless these links are there
# (NVIDIA/nvidia-container-toolkit issue 48).
if command -v nvidia-ctk >/dev/null; then
  nvidia-ctk system create-dev-char-symlinks --create-all || say "could not link the GPUs' devices in /dev/char"
fi

# Ring traffic goes straight to the host's network cards, NCCL's between GPUs through shared memory, and both pin it.
run=(docker run --detach --name cdk-horovod-node --restart no --gpus all --network host --ipc host)
run+=(--ulimit memlock=-1 --ulimit stack=67108864)
# The user's script needs none of the kernel's capabilities, and gets none back through a set-user-id program: with the
# host's network it could else open raw sockets, and as root read what others own. The limit is for processes and
# threads, so that no script takes the last process id from the switch; eight ranks of TensorFlow take some thousands.
run+=(--security-opt no-new-privileges --cap-drop ALL --pids-limit 65536)
hand_over_efa
run+=(--env "CDK_HOROVOD_BOOTED_AT=$booted_at" --env "CDK_HOROVOD_IMAGE=${digest:-$image}")
run+=(--env "CDK_HOROVOD_PULL_BEGAN_AT=$pull_began_at" --env "CDK_HOROVOD_PULLED_AT=$pulled_at")
run+=(--env-file '@NODE_ENV_FILE@' --volume "$ml_root:@ML_ROOT@")
if [ -n "$log_group" ]; then
  run+=(--log-driver awslogs --log-opt "awslogs-region=$region" --log-opt "awslogs-group=$log_group")
  # Non-blocking: when CloudWatch is slow, lines are lost rather than training steps.
  run+=(--log-opt "awslogs-stream=$node" --log-opt mode=non-blocking)
fi
"${run[@]}" "$image" || fail "docker did not start the container"
# Takes the instance out when its agent says so. Docker, or this unit, may be started anew meanwhile.
cat > '/etc/systemd/system/cdk-horovod-part-over.service' <<'UNIT'
[Unit]
Description=Takes this instance out when the run goes on without it
StartLimitIntervalSec=0

[Service]
EnvironmentFile=-@NODE_ENV_FILE@
ExecStart=/bin/bash @SWITCH_FILE@ leave-after cdk-horovod-node @EXIT_PART_OVER@
Restart=on-failure
RestartSec=5
StandardError=journal+console
UNIT
systemctl daemon-reload
systemctl start cdk-horovod-part-over.service
say "node started"
# The sign, if the pull was that fast.
wait
