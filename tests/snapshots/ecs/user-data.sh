#!/bin/bash
set -Eeuo pipefail

region='<AWS::Region>'
ml_root='/var/lib/cdk-horovod/ml'
node=$(cat /var/lib/cloud/data/instance-id)
booted_at=$(sed -n 's/^btime //p' /proc/stat)

say() {
  echo "cdk-horovod: $*" >&2
}

fail() {
  trap - ERR
  say "this node cannot start: $*"
  exit 1
}
trap 'fail "line $LINENO of user data ended with exit code $?: $BASH_COMMAND"' ERR

mkdir -p "$(dirname '/etc/cdk-horovod/node.env')"
cat > '/etc/cdk-horovod/node.env' <<'NODE_ENV'
CDK_HOROVOD_ENGINE=ecs
CDK_HOROVOD_LEDGER_TABLE=<Training/Ledger/Table>
CDK_HOROVOD_FLEET=EcsTrainingFleetEAE538C6
CDK_HOROVOD_TRAINING=EcsTraining7CFB6935
CDK_HOROVOD_LOG_GROUP=<Training/NodeLogs>
CDK_HOROVOD_IMAGE=<AWS::AccountId>.dkr.ecr.<AWS::Region>.<AWS::URLSuffix>/cdk-hnb659fds-container-assets-<AWS::AccountId>-<AWS::Region>:<hash>
CDK_HOROVOD_LEASE_SECONDS=600
AWS_REGION=<AWS::Region>
AWS_DEFAULT_REGION=<AWS::Region>
NODE_ENV
cat > '/usr/local/sbin/cdk-horovod-dead-mans-switch' <<'DEAD_MANS_SWITCH'
#!/usr/bin/env bash
set -u

say() {
  echo "cdk-horovod: dead-man's switch: $*" >&2
}

ask() {
  timeout --kill-after=5 20 aws "$@" --region "$region" --output text
}

read_item() {
  ask dynamodb get-item --consistent-read --table-name "$table" \
    --key "{\"pk\": {\"S\": \"$1\"}, \"sk\": {\"S\": \"$2\"}}" --query "Item.[$3]"
}

is_number() {
  [[ $1 =~ ^[0-9]+(\.[0-9]+)?$ ]]
}

read_uptime() {
  read -r uptime _ < /proc/uptime
  uptime=${uptime%.*}
}

look() {
  local holder holder_id expires_at ends ceiling
  read -r holder holder_id expires_at ends \
    < <(read_item "FLEET#$fleet" LEASE 'run.S, run_id.S, expires_at.N, ends_by.N') || return 1
  if ! is_number "$expires_at" || ((${expires_at%.*} <= EPOCHSECONDS)); then
    return 1
  fi
  if [[ $holder == '#'* || $holder_id == None ]]; then
    return 1
  fi
  if [[ -z $run_id ]]; then
    run=$holder
    run_id=$holder_id
    say "watches over run $run"
  fi
  if [[ $holder_id != "$run_id" ]]; then
    return 1
  fi
  if is_number "$ends"; then
    ends_by=${ends%.*}
  fi
  read -r ceiling < <(read_item "RUN#$run_id" RUN 'ceiling_at.N') || return 1
  if is_number "$ceiling"; then
    ceiling_at=${ceiling%.*}
  fi
}

leave() {
  local try answer
  say "this instance goes: $1"
  sleep $((RANDOM % (interval + 1)))
  for ((try = 1; try <= 10; try++)); do
    if answer=$(ask autoscaling terminate-instance-in-auto-scaling-group --instance-id "$instance" \
      --should-decrement-desired-capacity 2>&1); then
      say "Auto Scaling terminates $instance"
      break
    fi
    say "try $try of 10: Auto Scaling does not terminate $instance: $answer"
    if [[ $answer == *'(ValidationError)'*'min size'* ]]; then
      ask autoscaling terminate-instance-in-auto-scaling-group --instance-id "$instance" \
        --no-should-decrement-desired-capacity && break
    elif [[ $answer == *'(ValidationError)'* ]]; then
      break
    fi
    sleep $((interval / 2 + RANDOM % (interval + 1)))
  done
  until timeout --kill-after=5 60 shutdown -h now; do
    say "shutdown failed"
    sleep "$interval"
  done
  exit 0
}

main() {
  trap '' PIPE
  export AWS_PAGER='' AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=2
  local table=${CDK_HOROVOD_LEDGER_TABLE:-} fleet=${CDK_HOROVOD_FLEET:-} region=${AWS_REGION:-}
  local instance=${CDK_HOROVOD_NODE_ID:-} run='' run_id='' ends_by=0 ceiling_at=0
  local lease_seconds=${CDK_HOROVOD_LEASE_SECONDS:-} interval uptime seen_at
  if ! [[ $lease_seconds =~ ^[1-9][0-9]*$ ]]; then
    lease_seconds=600
  fi
  interval=$((lease_seconds < 10 ? 1 : lease_seconds > 300 ? 30 : lease_seconds / 10))
  if [[ -z $instance ]]; then
    read -r instance < /var/lib/cloud/data/instance-id
  fi
  if [[ ${1:-} == leave-after ]]; then
    local code
    code=$(docker wait "$2") || exit 1
    [[ $code == "$3" ]] || exit 0
  fi
  if [[ -n ${1:-} ]]; then
    leave "its part of the run is over"
  fi
  read_uptime
  seen_at=$uptime
  while true; do
    if look; then
      read_uptime
      seen_at=$uptime
    fi
    read_uptime
    if ((uptime - seen_at >= lease_seconds)); then
      leave "it has seen no valid lease of ${run:-any run} for $((uptime - seen_at)) s"
    elif ((ends_by && EPOCHSECONDS >= ends_by)); then
      leave "run $run has reached its hard maximum"
    elif ((ceiling_at && EPOCHSECONDS >= ceiling_at)); then
      leave "run $run has reached its cost ceiling"
    fi
    sleep "$interval"
  done
}

main "$@"; exit
DEAD_MANS_SWITCH
cat > '/etc/systemd/system/cdk-horovod-dead-mans-switch.service' <<'UNIT'
[Unit]
Description=Takes this instance out when nothing keeps its run alive any more
StartLimitIntervalSec=0

[Service]
EnvironmentFile=-/etc/cdk-horovod/node.env
ExecStart=/bin/bash /usr/local/sbin/cdk-horovod-dead-mans-switch
Restart=always
RestartSec=5
OOMScoreAdjust=-1000
StandardError=journal+console

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now cdk-horovod-dead-mans-switch.service

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

use_instance_store() {
  local disk
  if systemctl cat dlami-nvme.service >/dev/null 2>&1; then
    systemctl start dlami-nvme.service
  fi
  if mountpoint --quiet /opt/dlami/nvme; then
    ml_root=/opt/dlami/nvme/ml
    return
  fi
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

give_sign() {
  local run run_id token instance_type zone item
  read -r run run_id < <(timeout 20 aws dynamodb get-item --region "$region" --consistent-read \
    --table-name '<Training/Ledger/Table>' --key '{"pk": {"S": "FLEET#EcsTrainingFleetEAE538C6"}, "sk": {"S": "LEASE"}}' \
    --query 'Item.[run.S, run_id.S]' --output text)
  [[ -n $run_id && $run_id != None && $run != '#'* ]] || return 0
  token=$(metadata api/token --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60')
  instance_type=$(metadata meta-data/instance-type --header "X-aws-ec2-metadata-token: $token")
  zone=$(metadata meta-data/placement/availability-zone --header "X-aws-ec2-metadata-token: $token")
  printf -v item '"%s": {"S": "%s"}, ' pk 'NODES#EcsTrainingFleetEAE538C6#'"$run_id" sk "BOOT#$node" node "$node" \
    state 'pulling the image' instance_type "$instance_type" zone "$zone"
  printf -v item '{%s"booted_at": {"N": "%s"}, "seen_at": {"N": "%s"}, "remove_at": {"N": "%s"}}' "$item" \
    "$booted_at" "$EPOCHSECONDS" $((EPOCHSECONDS + 86400))
  timeout 20 aws dynamodb put-item --region "$region" --table-name '<Training/Ledger/Table>' --item "$item"
}

link_gpus() {
  if command -v nvidia-ctk >/dev/null; then
    nvidia-ctk system create-dev-char-symlinks --create-all || say "could not link the GPUs' devices in /dev/char"
  fi
}

leave_by() {
  cat > '/etc/systemd/system/cdk-horovod-part-over.service' <<UNIT
[Unit]
Description=Takes this instance out when the run goes on without it
StartLimitIntervalSec=0

[Service]
EnvironmentFile=-/etc/cdk-horovod/node.env
ExecStart=/bin/bash /usr/local/sbin/cdk-horovod-dead-mans-switch $*
Restart=on-failure
RestartSec=5
StandardError=journal+console
UNIT
}

use_instance_store
mkdir -p "$ml_root"
chmod 1777 "$ml_root"

command -v aws >/dev/null || retry "install the AWS CLI" dnf install --quiet --assumeyes awscli-2
(trap - ERR; give_sign) >/dev/null 2>&1 &

if [[ $ml_root != '/var/lib/cdk-horovod/ml' ]]; then
  mkdir -p '/var/lib/cdk-horovod/ml'
  mount --bind "$ml_root" '/var/lib/cdk-horovod/ml'
fi
link_gpus
leave_by leave
cat > '/etc/systemd/system/cdk-horovod-part-over.path' <<'PATH_UNIT'
[Path]
PathExists=/var/lib/cdk-horovod/ml/.part-over
PATH_UNIT
systemctl daemon-reload
systemctl start cdk-horovod-part-over.path
mkdir -p /etc/ecs
cat > '/etc/ecs/ecs.config' <<'ECS_CONFIG'
ECS_CLUSTER=<Training/Cluster>
ECS_INSTANCE_ATTRIBUTES={"cdk-horovod.fleet": "EcsTraining-Fleet-EAE538C6"}
ECS_ENABLE_SPOT_INSTANCE_DRAINING=false
ECS_DISABLE_METRICS=true
ECS_DISABLE_DOCKER_HEALTH_CHECK=true
ECS_IMAGE_PULL_BEHAVIOR=prefer-cached
ECS_TASK_PIDS_LIMIT=65536
ECS_SELINUX_CAPABLE=true
ECS_CONFIG
say "node joins its cluster"
wait
