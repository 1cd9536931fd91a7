#!/usr/bin/env bash
# Compiles Horovod's wheel against the TensorFlow, or else the PyTorch, that PYTHON already has.
#
#   build_horovod.sh WHEEL_DIR [PYTHON]
#
# WITH_NCCL                    "1": NCCL for GPU tensors; otherwise Gloo on CPU only
# HOROVOD_CUDA_HOME            the CUDA toolkit (default: the one among PYTHON's packages, else /usr/local/cuda); read with
#                              WITH_NCCL=1
# HOROVOD_BUILD_CUDA_CC_LIST   compute capabilities to compile for, as 75,80,86 (default: all that nvcc knows)
#
# PYTHON's environment holds requirements-build.txt and one of the image's other requirement files, or sees the second in
# an environment of its own: PyTorch wants a newer setuptools than Horovod's build can use.
# Used by the Dockerfile and by `make setup`, so that the wheel under test is the wheel in the image.
set -euo pipefail

wheel_dir=${1:?usage: build_horovod.sh WHEEL_DIR [PYTHON]}
python=${2:-python3}
# The last release. The source is checked against this digest, like every requirement against its own.
version=0.28.1
sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

if "$python" -c 'import tensorflow' 2>/dev/null; then
  export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1
elif "$python" -c 'import torch' 2>/dev/null; then
  export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1
else
  echo "build_horovod.sh: $python has neither TensorFlow nor PyTorch to compile against; install one of" \
    "training_image/requirements*.txt" >&2
  exit 1
fi
command -v c++ >/dev/null || {
  echo "build_horovod.sh: no C++ compiler; install the Debian package g++" >&2
  exit 1
}

export HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_MPI=1
if [ "${WITH_NCCL:-0}" = 1 ]; then
  # The NCCL that came with the framework, so that a process holds one NCCL and not two. Its wheel lacks the name that
  # linkers look for. Left where it is, it also becomes the library's run path.
  nccl=$("$python" -c 'import nvidia.nccl; print(*nvidia.nccl.__path__)')
  ln -sf libnccl.so.2 "$nccl/lib/libnccl.so"
  cuda=$("$python" -c 'import pathlib, nvidia
for nvcc in (nvcc for path in nvidia.__path__ for nvcc in pathlib.Path(path).glob("cu*/bin/nvcc")):
    print(nvcc.parents[1])')
  if [ -n "$cuda" ]; then
    # The wheels of a toolkit lack names that its compiler and cmake look for.
    ln -sfn lib "$cuda/lib64"
    (cd "$cuda/lib" && ln -sf libcudart.so.* libcudart.so)
  fi
  export HOROVOD_CUDA_HOME=${HOROVOD_CUDA_HOME:-${cuda:-/usr/local/cuda}}
  export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
  export HOROVOD_NCCL_INCLUDE="$nccl/include" HOROVOD_NCCL_LIB="$nccl/lib"
fi
# Unset, Horovod's build asks for eight jobs whatever the machine has.
export MAKEFLAGS=${MAKEFLAGS:--j$(nproc)}
# Horovod always compiles with debug information: 57 MB of it against 2 MB of code.
export LDFLAGS="${LDFLAGS:-} -Wl,--strip-debug"
# The cmake that stands beside this Python comes first: the system's may be newer than Horovod can read.
PATH="$("$python" -c 'import sys, os; print(os.path.dirname(sys.executable))'):$PATH"
export PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
archive="$work/horovod-$version.tar.gz"
"$python" -m pip download --quiet --no-deps --no-binary=:all: --no-build-isolation --dest "$work" "horovod==$version"
echo "$sha256  $archive" | sha256sum --check --quiet -
tar -xzf "$archive" -C "$work"
source_dir="$work/horovod-$version"

# Under tf-keras (TensorFlow >= 2.16) `from keras import backend` finds Keras 3, and the metric and warm-up
# callbacks fail. TensorFlow's own path is Keras 2 in both profiles.
sed -i 's/^    from keras import backend as K$/    from tensorflow.keras import backend as K/' \
  "$source_dir/horovod/tensorflow/keras/__init__.py" "$source_dir/horovod/tensorflow/keras/callbacks.py"

# Gloo's collectives shall listen on the interface that HOROVOD_GLOO_IFACE names. Horovod 0.28.1 reads the variable into
# `global_context` only, and makes the device of every process set from its own `gloo_iface_`, which nothing sets: it
# then listens where the host's own name resolves, which on some hosts is 127.0.0.1 or nowhere at all.
gloo_context="$source_dir/horovod/common/gloo/gloo_context.cc"
sed -i '/InitializeForProcessSet/,/CreateDevice/s/attr\.iface = gloo_iface_;/attr.iface = gloo_iface_ = global_context.gloo_iface_;/' \
  "$gloo_context"
[ "$(grep -c 'gloo_iface_ = global_context\.gloo_iface_;' "$gloo_context")" = 1 ] || {
  echo "build_horovod.sh: the repair of gloo_context.cc found nothing to repair in Horovod $version" >&2
  exit 1
}

# A rank waits for its own background thread by looking every millisecond, and all ranks of a host do so until the last
# one has met the others: where ranks share cores, most of the cores' time. Ten milliseconds cost a start nothing.
operations="$source_dir/horovod/common/operations.cc"
sed -i '/^bool InitializeHorovodOnce/,/^}/s/milliseconds(1)/milliseconds(10)/' "$operations"
[ "$(grep -c 'milliseconds(10)' "$operations")" = 1 ] || {
  echo "build_horovod.sh: the wait in operations.cc of Horovod $version is not where it was" >&2
  exit 1
}

# The headers of PyTorch 2.1 and later are C++17. Horovod's core becomes C++17 with its module for PyTorch: they share
# classes. TensorFlow's module asks for C++17 itself.
if [ "${HOROVOD_WITH_PYTORCH:-0}" = 1 ]; then
  for file in "$source_dir/CMakeLists.txt" "$source_dir/horovod/torch/CMakeLists.txt"; do
    sed -i 's/^\( *set(CMAKE_CXX_STANDARD\) 14)$/\1 17)/' "$file"
    [ "$(grep -c '^ *set(CMAKE_CXX_STANDARD 17)$' "$file")" = 1 ] || {
      echo "build_horovod.sh: $file of Horovod $version does not ask for C++14 where it should" >&2
      exit 1
    }
  done
fi

# From TensorFlow 2.19 on, its package lacks headers that its own XLA headers include (llvm/ADT, highwayhash), so that
# Horovod's operations for XLA do not compile. No flag leaves them out, and nothing but HOROVOD_ENABLE_XLA_OPS=1 uses them.
if "$python" -c 'import sys, tensorflow as tf; sys.exit(tuple(map(int, tf.__version__.split(".")[:2])) < (2, 19))' \
  2>/dev/null; then
  sed -i '/xla_mpi_ops\.cc/d' "$source_dir/horovod/tensorflow/CMakeLists.txt"
fi

mkdir -p "$wheel_dir"
"$python" -m pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$wheel_dir" "$source_dir"
ls "$wheel_dir"/horovod-"$version"-*.whl
