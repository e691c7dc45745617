"""The files of tools/launch, with stand-ins for what they start."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from network import until

LAUNCH = Path(__file__).parents[2] / "tools" / "launch"
# In the place of python: a rank that notes what it was given, and ends as it is told.
RANK = f"""#!{sys.executable}
import json, os, signal, sys, time
seen = {{key: os.environ[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}}
with open(os.path.join(os.environ["NOTES"], "rank-" + seen["RANK"]), "w") as file:
    json.dump(seen | {{"arguments": sys.argv[1:]}}, file)
if seen["RANK"] in os.environ.get("WAITS", ""):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    open(os.path.join(os.environ["NOTES"], "waits-" + seen["RANK"]), "w").close()
    time.sleep(60)
sys.exit(int(os.environ.get("CODE_" + seen["RANK"], "0")))
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
code=0
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@" || code=$?
done
exit $code
"""
SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && printf 'node-a\\nnode-b\\n' || echo "$@" > "$NOTES/asked"
"""


@pytest.fixture
def stage(tmp_path) -> dict[str, str]:
    """An environment in which python, srun and scontrol are stand-ins."""
    for name, content in (("python", RANK), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "71234", "SLURM_NTASKS": "4"}
    slurm |= {"SLURM_CPUS_PER_TASK": "8"}
    master = {"MASTER_ADDR": "node-a", "MASTER_PORT": "29500"}
    return os.environ | slurm | master | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path)}


def ranks_seen(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*"))]


@pytest.mark.parametrize("code", [0, 2, 75])
def test_slurm_starts_every_rank_and_requeues_what_was_asked_to_stop(code, stage, tmp_path):
    command = ["bash", str(LAUNCH / "slurm.sbatch"), "my.json", "--set", "seed=1"]
    done = subprocess.run(command, env=stage | {"CODE_2": str(code)}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    seen = ranks_seen(tmp_path)
    assert [(rank["RANK"], rank["LOCAL_RANK"]) for rank in seen] == [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")]
    assert {(rank["WORLD_SIZE"], rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in seen} == {
        ("4", "node-a", "31234")
    }
    for rank in seen:
        assert rank["arguments"] == ["-m", "mftcoder", "train", "my.json", "--set", "seed=1", "--resume"]
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else None
    assert asked == ("requeue 71234\n" if code == 75 else None)


def test_ranks_of_a_node_are_numbered_on_from_those_of_nodes_before(stage, tmp_path):
    done = subprocess.run([LAUNCH / "ranks.sh", "1", "3", "2", "my.json"], env=stage)
    assert done.returncode == 0
    seen = [(rank["RANK"], rank["LOCAL_RANK"], rank["WORLD_SIZE"]) for rank in ranks_seen(tmp_path)]
    assert seen == [("2", "0", "6"), ("3", "1", "6")]


def test_a_rank_that_fails_ends_the_others_of_its_node_and_its_code_comes_back(stage, tmp_path):
    done = subprocess.run(
        [LAUNCH / "ranks.sh", "0", "1", "3", "my.json"], env=stage | {"WAITS": "1", "CODE_2": "2"}, timeout=120
    )
    assert done.returncode == 2


def test_a_request_to_stop_reaches_the_ranks_and_75_comes_back(stage, tmp_path):
    process = subprocess.Popen([LAUNCH / "ranks.sh", "0", "1", "2", "my.json"], env=stage | {"WAITS": "01"})
    until(lambda: len(list(tmp_path.glob("waits-*"))) == 2, 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_kubernetes_files_agree_with_themselves():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes-job.yaml").read_text())
    nodes = job["spec"]["completions"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["spec"]["parallelism"] == nodes
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f'"$JOB_COMPLETION_INDEX" {nodes} {gpus} ' in container["args"][0]
    master = {variable["name"]: variable["value"] for variable in container["env"]}["MASTER_ADDR"]
    assert master == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"]["batch.kubernetes.io/job-name"] == job["metadata"]["name"]
    claims = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claims
