#!/usr/bin/env bash
# On every node the same:  tools/launch/torchrun.sh NODES HEAD[:PORT] CONFIG [train's options]
# NODES is a number, or MIN:MAX for a run that goes on with fewer nodes when some are lost. HEAD is the name of one node.
set -euo pipefail
nodes=$1 head=$2 config=$3
shift 3
[[ $head == *:* ]] || head=$head:29400
here=()
if [[ -n ${LOCAL_ADDR:-} ]]; then # torchrun would look both up by this node's name
  here=(--local-addr "$LOCAL_ADDR" --rdzv-conf "is_host=$([[ ${head%:*} == "$LOCAL_ADDR" ]] && echo 1 || echo 0)")
fi
exec torchrun --nnodes "$nodes" --nproc-per-node "${GPUS_PER_NODE:-gpu}" --max-restarts "${MAX_RESTARTS:-3}" \
  --rdzv-backend c10d --rdzv-endpoint "$head" --rdzv-id "${RUN_ID:-mftcoder}" "${here[@]}" \
  -m mftcoder train "$config" "$@" --resume
