#!/usr/bin/env bash
# Turns an instance into a node: writes the node's environment, starts the dead-man's switch, and prepares the folder of
# the training. The end of user data, `run_container.sh` or `join_cluster.sh`, has the training container started, whose
# entry point is `python -m horovod_node`. cloud-init runs both as one script, once, as root, on Amazon Linux 2023 with
# Docker and the NVIDIA container toolkit. Its output goes to the instance's console.
#
# cdk_horovod.engines.user_data replaces the words between at-signs and removes the comments.
set -Eeuo pipefail

region='@REGION@'
# The host's folder that is mounted at /opt/ml in the container.
ml_root='@HOST_ML_ROOT@'
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

# After `systemctl daemon-reload`, or another update of the container's cgroup by systemd, processes that the container
# starts later, as an elastic ring does, get no GPU without these links (NVIDIA/nvidia-container-toolkit issue 48).
link_gpus() {
  if command -v nvidia-ctk >/dev/null; then
    nvidia-ctk system create-dev-char-symlinks --create-all || say "could not link the GPUs' devices in /dev/char"
  fi
}

# leave_by WORD...: writes the unit that terminates the instance when the run goes on without it, as the switch does it
# with these words. Its agent asks for that.
leave_by() {
  cat > '/etc/systemd/system/cdk-horovod-part-over.service' <<UNIT
[Unit]
Description=Takes this instance out when the run goes on without it
StartLimitIntervalSec=0

[Service]
EnvironmentFile=-@NODE_ENV_FILE@
ExecStart=/bin/bash @SWITCH_FILE@ $*
Restart=on-failure
RestartSec=5
StandardError=journal+console
UNIT
}

use_instance_store
# Writable for whatever user the image has; nothing else runs on this instance.
mkdir -p "$ml_root"
chmod 1777 "$ml_root"
