#!/usr/bin/env bash
# Train on the nodes of a hostfile, from one of them:  tools/launch/deepspeed.sh HOSTFILE CONFIG [train's options]
set -euo pipefail
hostfile=$1 config=$2
shift 2
# pdsh carries only PYTHON* to the other nodes; what else they need stands in .deepspeed_env, a KEY=VALUE per line.
if [[ ! -e .deepspeed_env ]]; then
  env | grep -E '^(NCCL_|GLOO_|HF_|OMP_|MFTCODER_|CUDA_HOME=|LD_LIBRARY_PATH=)' | grep -v TOKEN > .deepspeed_env || true
fi
exec deepspeed --hostfile "$hostfile" --module mftcoder train "$config" "$@" --resume
