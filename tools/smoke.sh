#!/bin/sh
# Every command once, on a generated corpus of arithmetic and a random model, in about a minute on a CPU.
# Writes only into runs/smoke. Uses the mftcoder on PATH (`make smoke` takes care of that).
set -eu
cd "$(dirname "$0")/.."
run=runs/smoke
rm -rf "$run"
mkdir -p "$run"

say() { printf '\n$ %s\n' "$*" >&2; "$@"; }

python tools/smoke_corpus.py "$run"
say mftcoder env
say mftcoder schema >"$run/schema.json"
say mftcoder completion bash >"$run/completion.sh"
printf '{"pretrained_model_path": "%s", "data_paths": "[%s]", "output_dir": "%s"}' \
    "$run/base" "$run/add.jsonl" "$run/old" >"$run/old.json"
say mftcoder import-config "$run/old.json" --to "$run/imported.json"
say mftcoder construct from-source "$run/tasks" --roots mftcoder --licences permissive,unknown --max-samples 5
say mftcoder construct topics
say mftcoder validate "$run/config.json"
say mftcoder tokenize "$run/config.json"
say mftcoder inspect "$run/shards" --limit 1
say mftcoder train "$run/config.json" --set training.max_steps=10
say deepspeed --num_gpus 2 --module mftcoder train "$run/config.json" --set output_dir="$run/two-ranks" \
    --set training.gradient_accumulation_steps=1 --set training.max_steps=10
say mftcoder evaluate "$run/run" --shards "$run/shards" --against "$run/base" --output "$run/run/evaluation.json"
printf '{"question": "12 + 30", "answer": "#### 42"}\n' >"$run/sums.jsonl"
say mftcoder evaluate "$run/run" --benchmark "$run/sums.jsonl" --to "$run/benchmarks" --no-chat --max-new-tokens 8
say mftcoder export "$run/run" --to "$run/export"
say mftcoder generate "$run/export" --prompt '12 + 30' --max-new-tokens 8
say mftcoder compare "$run/run" "$run/two-ranks"
say mftcoder simulate --weighting '{"type": "coba"}' --losses "$run/run"
say mftcoder report "$run/run" "$run/two-ranks" --to "$run/report.html"
printf '\nsmoke: all commands ran\n'
