#!/usr/bin/env bash
# The whole way on two CPU cores, without a model hub: four code tasks out of Python's standard library, a small base
# model from nothing, multi-task training under ZeRO-2 with CoBa, evaluation, export, generation, a report.
#
#   tools/demo.sh              what `make demo` runs; writes into runs/demo/ only
#   tools/demo.sh --quick DIR  the same in DIR, so small that only the way is tried and nothing is learnt
#
# A finished stage is not done again, an interrupted training goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE # threads that wait must not keep a busy machine's cores
export HF_HUB_OFFLINE=1 DS_LOG_LEVEL=error
construct=(--max-samples 1500 --max-chars 1500) text=() tasks=()

for program in mftcoder deepspeed; do
  command -v $program > /dev/null || { echo "there is no $program on PATH: type make demo" >&2; exit 1; }
done

if [[ ${1-} == --quick ]]; then
  root=$PWD && cd "$2"
  for folder in configs tools; do [[ -e $folder ]] || ln -s "$root/$folder" .; done
  stdlib=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  construct=(--roots "$stdlib"/{asyncio,email,http,importlib,json,multiprocessing} --max-samples 100 --max-chars 1500)
  text=(--set training.max_steps=12 --set training.save_steps=2)
  tasks=(--set training.max_steps=4 --set training.save_steps=2)
fi

case $(python -c 'import torch; print(torch.cuda.device_count())') in
  0) export DS_ACCELERATOR=cpu; ranks=2 ;;
  1) ranks=1; tasks+=(--set training.gradient_accumulation_steps=2) ;; # the rows per step of two ranks
  *) ranks=2 ;;
esac

demo=runs/demo
mkdir -p $demo/stages
key= running=
trap '[[ -z $running ]] || printf "\nstopped in \"%s\"; the next call goes on from there\n" "$running" >&2' EXIT

# stage NAME RESULT COMMAND… runs the command, unless it gave RESULT before and neither it, nor a file that it names, nor
# any stage before it has changed since.
stage() {
  local name=$1 result=$2 mark=$demo/stages/$1 start=$SECONDS word
  shift 2
  key=$({ echo "$key $*"; for word; do [[ ! -f $word || $word == runs/* ]] || cat "$word"; done; } | sha256sum)
  local before=$(cat "$mark" 2> /dev/null)
  if [[ $before == "done $key" && -e $result ]]; then
    echo "reused  $name: $result"
    return
  fi
  [[ $before == "begun $key" && $* == *--resume* ]] || rm -rf "$result"
  echo "begun $key" > "$mark"
  printf '\n%s\n$ %s\n' "── $name ──" "$*"
  running=$name
  "$@"
  running=
  echo "done $key" > "$mark"
  echo "($((SECONDS - start)) s)"
}

stage "task files" $demo/data \
  mftcoder construct from-source $demo/data "${construct[@]}"

stage "tokenizer and untrained model" $demo/new-model \
  python tools/new_model.py configs/demo/text.json
stage "text shards" $demo/text-shards \
  mftcoder tokenize configs/demo/text.json
stage "training on text" $demo/text-run \
  mftcoder train configs/demo/text.json --resume "${text[@]}"
stage "base model" $demo/base \
  mftcoder export $demo/text-run --to $demo/base

stage "task shards" $demo/task-shards \
  mftcoder tokenize configs/demo/tasks.json
stage "training on four tasks" $demo/four-tasks \
  env OMP_NUM_THREADS=1 deepspeed --quiet --num_gpus $ranks --module mftcoder train configs/demo/tasks.json --resume "${tasks[@]}"
stage "export" $demo/export \
  mftcoder export $demo/four-tasks --to $demo/export

stage "evaluation on held-out files" $demo/four-tasks/evaluation.json \
  mftcoder evaluate $demo/export --shards $demo/task-shards --against $demo/base --output $demo/four-tasks/evaluation.json
stage "generation for held-out functions" $demo/four-tasks/generations.jsonl \
  mftcoder generate $demo/export --held-out $demo/task-shards --max-new-tokens 128 --to $demo/four-tasks/generations.jsonl
stage "report" $demo/report.html \
  mftcoder report $demo/four-tasks --to $demo/report.html

printf '\n%s\n' "done in $SECONDS s; open $demo/report.html, or try: .venv/bin/mftcoder generate $demo/export"
