#!/usr/bin/env bash
# Start the ranks of one node with no launcher between, so that signals reach them and their exit code comes back:
#   MASTER_ADDR=… MASTER_PORT=… tools/launch/ranks.sh NODE NODES RANKS_PER_NODE CONFIG [train's options]
# NODE counts from 0. When a rank ends with an error, the others of the node are ended too.
set -uo pipefail
node=$1 nodes=$2 here=$3 config=$4
shift 4
export WORLD_SIZE=$((nodes * here))
ranks=()
for ((local = 0; local < here; local++)); do
  RANK=$((node * here + local)) LOCAL_RANK=$local python -m mftcoder train "$config" "$@" --resume &
  ranks+=($!)
done
trap 'kill -TERM "${ranks[@]}" 2> /dev/null' TERM INT
trap 'kill -USR1 "${ranks[@]}" 2> /dev/null' USR1
worst=0 left=$here
while ((left > 0)); do
  unset ended
  wait -n -p ended "${ranks[@]}"
  code=$?
  [[ -n ${ended:-} ]] || continue # a signal came, and no rank has ended
  left=$((left - 1))
  for index in "${!ranks[@]}"; do
    [[ ${ranks[index]} != "$ended" ]] || unset "ranks[index]"
  done
  if ((code != 0 && worst == 0)); then
    worst=$code
    ((left == 0 || code == 75)) || kill -TERM "${ranks[@]}" 2> /dev/null
  fi
done
exit "$worst"
