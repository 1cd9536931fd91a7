#!/usr/bin/env bash
# The dead-man's switch: terminates this instance when nothing keeps its run alive any more.
#
# node_boot.sh installs it before anything else, as a systemd service. It does not depend on the training container, so
# a container that hangs, crashes or never starts does not affect it; nor does a full disk, because it writes no files.
# It needs bash, coreutils and the AWS CLI; if one is missing, it sees no lease.
#
# Every $interval seconds it reads the fleet's lease, which the leader renews. It terminates the instance when
#   - it has seen no valid lease of its run for CDK_HOROVOD_LEASE_SECONDS; a ledger that does not answer counts as none;
#   - the time `ends_by` of the lease has come: the run's hard maximum;
#   - the time `ceiling_at` of the run has come: its cost ceiling.
# The argument `leave` terminates the instance at once. `leave-after CONTAINER CODE` does so when the container ends
# with this exit code, by which its agent says that the run continues without this node.
# Names of items and attributes are those of horovod_node.contract.
set -u

say() {
  echo "cdk-horovod: dead-man's switch: $*" >&2
}

# ask ARGUMENT...: call the AWS CLI; a call may fail, but never hangs.
ask() {
  timeout --kill-after=5 20 aws "$@" --region "$region" --output text
}

# read_item PARTITION SORT ATTRIBUTES: print an item's attributes on one line, `None` for each absent one.
read_item() {
  ask dynamodb get-item --consistent-read --table-name "$table" \
    --key "{\"pk\": {\"S\": \"$1\"}, \"sk\": {\"S\": \"$2\"}}" --query "Item.[$3]"
}

is_number() {
  [[ $1 =~ ^[0-9]+(\.[0-9]+)?$ ]]
}

# Sets `uptime`, the seconds since boot. Nobody can change it, unlike the time of day, with which the ledger's times are
# compared.
read_uptime() {
  read -r uptime _ < /proc/uptime
  uptime=${uptime%.*}
}

# Reads the ledger; succeeds if the lease is valid and of this instance's run.
look() {
  local holder holder_id expires_at ends ceiling
  read -r holder holder_id expires_at ends \
    < <(read_item "FLEET#$fleet" LEASE 'run.S, run_id.S, expires_at.N, ends_by.N') || return 1
  if ! is_number "$expires_at" || ((${expires_at%.*} <= EPOCHSECONDS)); then
    return 1
  fi
  # A holder that begins with '#' is clean-up or reaper, which empty the fleet. A lease without a run is invalid.
  if [[ $holder == '#'* || $holder_id == None ]]; then
    return 1
  fi
  # The instance was started for the first run that it sees.
  if [[ -z $run_id ]]; then
    run=$holder
    run_id=$holder_id
    say "watches over run $run"
  fi
  if [[ $holder_id != "$run_id" ]]; then
    return 1
  fi
  # Kept in variables, so that the limits apply even if the ledger no longer answers.
  if is_number "$ends"; then
    ends_by=${ends%.*}
  fi
  read -r ceiling < <(read_item "RUN#$run_id" RUN 'ceiling_at.N') || return 1
  if is_number "$ceiling"; then
    ceiling_at=${ceiling%.*}
  fi
}

# leave REASON: never returns.
leave() {
  local try answer
  say "this instance goes: $1"
  # Hundreds of nodes may leave at once, and Auto Scaling throttles calls.
  sleep $((RANDOM % (interval + 1)))
  # Auto Scaling comes first, because it would replace an instance that shuts itself down, at full price. The tries take
  # some five minutes.
  for ((try = 1; try <= 10; try++)); do
    if answer=$(ask autoscaling terminate-instance-in-auto-scaling-group --instance-id "$instance" \
      --should-decrement-desired-capacity 2>&1); then
      say "Auto Scaling terminates $instance"
      break
    fi
    say "try $try of 10: Auto Scaling does not terminate $instance: $answer"
    # The desired capacity is less than this instance's weight, because other nodes have left. Without the decrement the
    # group launches a replacement of the smallest type. The capacity is a multiple of that weight, so the replacement
    # can leave with a decrement when it finds no valid lease. Lowering the capacity directly would need a permission
    # with which a user's script could enlarge the fleet.
    if [[ $answer == *'(ValidationError)'*'min size'* ]]; then
      ask autoscaling terminate-instance-in-auto-scaling-group --instance-id "$instance" \
        --no-should-decrement-desired-capacity && break
    # The instance is no longer in a group, so another try would get the same answer.
    elif [[ $answer == *'(ValidationError)'* ]]; then
      break
    fi
    sleep $((interval / 2 + RANDOM % (interval + 1)))
  done
  # Shut down in any case: these instances terminate on shutdown (InstanceInitiatedShutdownBehavior).
  until timeout --kill-after=5 60 shutdown -h now; do
    say "shutdown failed"
    sleep "$interval"
  done
  exit 0
}

main() {
  # A closed console or journal must not end this script.
  trap '' PIPE
  # No pager, and few retries in the CLI, because the next iteration asks again.
  export AWS_PAGER='' AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=2
  local table=${CDK_HOROVOD_LEDGER_TABLE:-} fleet=${CDK_HOROVOD_FLEET:-} region=${AWS_REGION:-}
  local instance=${CDK_HOROVOD_NODE_ID:-} run='' run_id='' ends_by=0 ceiling_at=0
  local lease_seconds=${CDK_HOROVOD_LEASE_SECONDS:-} interval uptime seen_at
  if ! [[ $lease_seconds =~ ^[1-9][0-9]*$ ]]; then
    # The construct's default, for an instance whose environment is missing.
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

# `exit` on the same line: bash then never reads the file again after it has started `main`.
main "$@"; exit
