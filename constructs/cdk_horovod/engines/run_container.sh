#!/usr/bin/env bash
# The end of user data where Docker starts the training container: on an AWS Deep Learning Base GPU AMI, which has the AWS
# CLI. It follows node_boot.sh in the same shell, whose variables and functions it uses.
# shellcheck disable=SC2154

image='@IMAGE@'
log_group='@LOG_GROUP@'

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
link_gpus
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
# The agent asks by its exit code. Docker or this unit may be restarted in the meantime.
leave_by leave-after cdk-horovod-node @EXIT_PART_OVER@
systemctl daemon-reload
systemctl start cdk-horovod-part-over.service
say "node started"
# For `give_sign`, if it still runs.
wait
