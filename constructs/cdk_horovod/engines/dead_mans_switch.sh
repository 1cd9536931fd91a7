#!/usr/bin/env bash
# The dead-man's switch: takes this instance out when nothing keeps its run alive any more.
#
# node_boot.sh installs it before anything else, as a systemd unit of its own. It stands outside of the training
# container and needs nothing of it: a container that hangs, crashed or never started changes nothing here, nor does a
# full disk, for it writes to none. It takes bash, coreutils and the AWS CLI; where one is missing it sees no lease.
#
# Every $interval seconds it reads the fleet's lease, which the leader renews. The instance goes when
#   - no valid lease of its run was seen for CDK_HOROVOD_LEASE_SECONDS; a ledger that does not answer shows none;
#   - the time `ends_by` of the lease has come: the run's hard maximum;
#   - the time `ceiling_at` of the run has come: it has cost what it may.
# Called as `leave` it takes the instance out at once, and as `leave-after CONTAINER CODE` when the container ends with
# this exit code, by which its agent says that the run goes on without it.
# Names of items and attributes are those of horovod_node.contract.
set -u

say() {
  echo "cdk-horovod: dead-man's switch: $*" >&2
}

# ask WORD...: call AWS; a call may fail, but never hangs.
ask() {
  timeout --kill-after=5 20 aws "$@" --region "$region" --output text
}

# read_item PARTITION SORT ATTRIBUTES: print an item's attributes on one line, the word None for each that is not there.
read_item() {
  ask dynamodb get-item --consistent-read --table-name "$table" \
    --key "{\"pk\": {\"S\": \"$1\"}, \"sk\": {\"S\": \"$2\"}}" --query "Item.[$3]"
}

is_number() {
  [[ $1 =~ ^[0-9]+(\.[0-9]+)?$ ]]
}

# Sets `uptime`, the seconds since the machine started: unlike the time of day, with which the ledger's times are
# compared, nobody can set it.
read_uptime() {
  read -r uptime _ < /proc/uptime
  uptime=${uptime%.*}
}

# Reads the ledger; succeeds when it shows a valid lease of this instance's run.
look() {
  local holder holder_id expires_at ends ceiling
  read -r holder holder_id expires_at ends \
    < <(read_item "FLEET#$fleet" LEASE 'run.S, run_id.S, expires_at.N, ends_by.N') || return 1
  if ! is_number "$expires_at" || ((${expires_at%.*} <= EPOCHSECONDS)); then
    return 1
  fi
  # Clean-up and reaper, whose names begin with a '#', hold a fleet in order to empty it. A lease without a run is none.
  if [[ $holder == '#'* || $holder_id == None ]]; then
    return 1
  fi
  # The first run that is seen is the one that the instance was started for.
  if [[ -z $run_id ]]; then
    run=$holder
    run_id=$holder_id
    say "watches over run $run"
  fi
  if [[ $holder_id != "$run_id" ]]; then
    return 1
  fi
  # Remembered, so that they hold without the ledger, too.
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
  # Hundreds of nodes may go at the same time, and Auto Scaling takes only so many calls a second.
  sleep $((RANDOM % (interval + 1)))
  # Auto Scaling first, for it replaces an instance that shuts itself down, at full price and for nothing. It gets some
  # five minutes to answer.
  for ((try = 1; try <= 10; try++)); do
    if answer=$(ask autoscaling terminate-instance-in-auto-scaling-group --instance-id "$instance" \
      --should-decrement-desired-capacity 2>&1); then
      say "Auto Scaling terminates $instance"
      break
    fi
    say "try $try of 10: Auto Scaling does not terminate $instance: $answer"
    # The group wants less than this instance weighs, because others have gone already. It launches one in its place:
    # of the smallest type, whose weight the group's capacity is a multiple of, and which can therefore go for good when
    # it finds no valid lease. To end the group's wish itself would need the right to set its capacity, and with it a
    # script could make its fleet larger.
    if [[ $answer == *'(ValidationError)'*'min size'* ]]; then
      ask autoscaling terminate-instance-in-auto-scaling-group --instance-id "$instance" \
        --no-should-decrement-desired-capacity && break
    # The instance is in no group any more: no other try will be answered differently.
    elif [[ $answer == *'(ValidationError)'* ]]; then
      break
    fi
    sleep $((interval / 2 + RANDOM % (interval + 1)))
  done
  # In any case: EC2 terminates an instance of these fleets when it shuts down (InstanceInitiatedShutdownBehavior).
  until timeout --kill-after=5 60 shutdown -h now; do
    say "shutdown failed"
    sleep "$interval"
  done
  exit 0
}

main() {
  # A console or journal that is gone must not end this.
  trap '' PIPE
  # No pager; no long patience of the CLI's own, for the next turn asks again.
  export AWS_PAGER='' AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=2
  local table=${CDK_HOROVOD_LEDGER_TABLE:-} fleet=${CDK_HOROVOD_FLEET:-} region=${AWS_REGION:-}
  local instance=${CDK_HOROVOD_NODE_ID:-} run='' run_id='' ends_by=0 ceiling_at=0
  local lease_seconds=${CDK_HOROVOD_LEASE_SECONDS:-} interval uptime seen_at
  if ! [[ $lease_seconds =~ ^[1-9][0-9]*$ ]]; then
    # The construct's default: an instance to which nothing was said must go, too.
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

# On one line with its end: bash has read the whole file before it runs any of it, and never looks into the file again.
main "$@"; exit
