#!/usr/bin/env bash
# Turns an instance into a node: writes the node's environment, starts the dead-man's switch, and starts the container
# whose entry point is `python -m horovod_node`. cloud-init runs it once, as root, on an AWS Deep Learning Base GPU AMI
# (Amazon Linux 2023 with Docker, the NVIDIA container toolkit and the AWS CLI). Its output goes to the instance's
# console.
#
# cdk_horovod.engines.user_data replaces the words between at-signs and removes the comments.
set -Eeuo pipefail

image='@IMAGE@'
log_group='@LOG_GROUP@'
region='@REGION@'
# The host's folder that is mounted at @ML_ROOT@ in the container.
ml_root='@ML_ROOT@'
node=$(cat /var/lib/cloud/data/instance-id)
booted_at=$(sed -n 's/^btime //p' /proc/stat)

say() {
  echo "cdk-horovod: $*" >&2
}

# After a failure the instance stays up: its Auto Scaling group would replace one that shuts itself down, again and
# again, at full price. The run's start timeout or the switch terminates it; until then the console shows the reason.
fail() {
  trap - ERR
  say "this node cannot start: $*"
  exit 1
}
trap 'fail "line $LINENO of user data ended with exit code $?: $BASH_COMMAND"' ERR

# First the dead-man's switch, which terminates this instance whatever happens later.
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
# Optional: without its environment the switch finds no lease and terminates the instance.
EnvironmentFile=-@NODE_ENV_FILE@
ExecStart=/bin/bash @SWITCH_FILE@
Restart=always
RestartSec=5
# The kernel's OOM killer spares it when the user's script has used up all memory.
OOMScoreAdjust=-1000
StandardError=journal+console

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now cdk-horovod-dead-mans-switch.service

# retry WHAT COMMAND...: run COMMAND up to five times, with pauses of 2, 4, 8 and 16 s.
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

# Uses the instance store if there is one: it is faster than the root volume, and included in the price.
use_instance_store() {
  local disk
  if systemctl cat dlami-nvme.service >/dev/null 2>&1; then
    # The AMI's service combines all disks into one volume and mounts it. `start` waits for it, because user data may
    # run first.
    systemctl start dlami-nvme.service
  fi
  if mountpoint --quiet /opt/dlami/nvme; then
    ml_root=/opt/dlami/nvme/ml
    return
  fi
  # Other AMIs do not mount the disks: use the first one. udev makes this link from model and serial number.
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

# Passes the instance's Elastic Fabric Adapters to the container. Any user may open them: the kernel's mode for uverbs
# is 0666, which Docker keeps. If the image has no EFA software, the AMI's is mounted read-only: libfabric, NCCL's
# plugin, and the rdma-core with which they were built, which is newer than Debian's.
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
  # Different releases of the EFA installer use different folders.
  for folder in /opt/amazon/ofi-nccl/{lib64,lib,lib/x86_64-linux-gnu} /opt/amazon/efa/{lib64,lib}; do
    [ ! -d "$folder" ] || libraries+=$folder:
  done
  run+=(--env "LD_LIBRARY_PATH=$libraries/opt/amazon/rdma-core")
}

metadata() {
  curl --silent --fail --noproxy '*' --max-time 2 "${@:2}" "http://169.254.169.254/latest/$1"
}

# Records that this instance is pulling the image, before its agent can: the item `boot_key` of horovod_node.contract.
give_sign() {
  local run run_id token instance_type zone item
  read -r run run_id < <(timeout 20 aws dynamodb get-item --region "$region" --consistent-read \
    --table-name '@LEDGER_TABLE@' --key '{"pk": {"S": "FLEET#@FLEET@"}, "sk": {"S": "LEASE"}}' \
    --query 'Item.[run.S, run_id.S]' --output text)
  # No run holds the fleet, or it is being emptied.
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
# Writable for whatever user the image has; nothing else runs on this instance.
mkdir -p "$ml_root"
chmod 1777 "$ml_root"

systemctl start docker.service
# The registry's password is valid for 12 hours; this folder is deleted when the script ends.
DOCKER_CONFIG=$(mktemp -d)
export DOCKER_CONFIG
trap 'rm -rf "$DOCKER_CONFIG"' EXIT
registry=${image%%/*}
if [[ $registry =~ ^[0-9]{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\. ]]; then
  retry "log in to $registry" ecr_login "${BASH_REMATCH[2]}" "$registry"
fi
# Best effort: without it people only see the node later.
(trap - ERR; give_sign) >/dev/null 2>&1 &
pull_began_at=$EPOCHSECONDS
retry "pull $image" docker pull --quiet "$image"
pulled_at=$EPOCHSECONDS
digest=$(docker image inspect --format '{{index .RepoDigests 0}}' "$image" 2>/dev/null) || digest=

# After `systemctl daemon-reload`, or another update of the container's cgroup by systemd, processes that the container
# starts later, as an elastic ring does, get no GPU without these links (NVIDIA/nvidia-container-toolkit issue 48).
if command -v nvidia-ctk >/dev/null; then
  nvidia-ctk system create-dev-char-symlinks --create-all || say "could not link the GPUs' devices in /dev/char"
fi

# Ring traffic uses the host's network directly, and NCCL uses shared memory between GPUs; both pin memory.
run=(docker run --detach --name cdk-horovod-node --restart no --gpus all --network host --ipc host)
run+=(--ulimit memlock=-1 --ulimit stack=67108864)
# The user's script needs no kernel capabilities, and set-user-id programs give it none: otherwise it could open raw
# sockets on the host's network and, as root, read files of other users. The limit on processes and threads leaves
# process ids for the switch; eight ranks of TensorFlow take some thousands.
run+=(--security-opt no-new-privileges --cap-drop ALL --pids-limit 65536)
hand_over_efa
run+=(--env "CDK_HOROVOD_BOOTED_AT=$booted_at" --env "CDK_HOROVOD_IMAGE=${digest:-$image}")
run+=(--env "CDK_HOROVOD_PULL_BEGAN_AT=$pull_began_at" --env "CDK_HOROVOD_PULLED_AT=$pulled_at")
run+=(--env-file '@NODE_ENV_FILE@' --volume "$ml_root:@ML_ROOT@")
if [ -n "$log_group" ]; then
  run+=(--log-driver awslogs --log-opt "awslogs-region=$region" --log-opt "awslogs-group=$log_group")
  # Non-blocking: if CloudWatch is slow, log lines are lost, but training does not wait.
  run+=(--log-opt "awslogs-stream=$node" --log-opt mode=non-blocking)
fi
"${run[@]}" "$image" || fail "docker did not start the container"
# Terminates the instance when its agent asks for it. Docker or this unit may be restarted in the meantime.
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
# For `give_sign`, if it still runs.
wait
