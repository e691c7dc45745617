"""Several nodes, each a network namespace: they train as one would, and what goes wrong with one is told by name."""

import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from end_to_end_project import succeed
from network import ADDRESSES, PORT, Node, ended, network, until, why_not
from test_resume import assert_equal_bitwise, last_checkpoint, losses_logged

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.skipif(bool(why_not()), reason=str(why_not()))]

STEPS = {"training__max_steps": 8, "training__save_steps": 4, "logging__logging_steps": 1}
LONG_RUN = {"training__max_steps": 100_000, "logging__logging_steps": 1, "training__save_steps": 2}
ZERO2 = {"zero_optimization": {"stage": 2}}


@pytest.fixture
def nodes(tmp_path) -> Iterator[list[Node]]:
    with network(2, tmp_path) as made:
        yield made


def start(way: str, node: Node, config: Path, nodes: int = 2, **options: str):
    """One rank on ``node``, by one of the ways of tools/launch."""
    if way == "ranks.sh":
        return node.run("tools/launch/ranks.sh", node.number, nodes, 1, config, **options)
    if way == "torchrun.sh":
        elastic = {"GPUS_PER_NODE": "1", "MAX_RESTARTS": "2", "LOCAL_ADDR": f"{ADDRESSES}{node.number + 1}"}
        return node.run("tools/launch/torchrun.sh", nodes, f"{ADDRESSES}1:29400", config, **elastic)
    hosts = config.with_name("hostfile")
    hosts.write_text("".join(f"{ADDRESSES}{number + 1} slots=1\n" for number in range(nodes)))
    here = ["--no_ssh", "--node_rank", node.number, "--master_addr", f"{ADDRESSES}1", "--master_port", PORT]
    return node.run("deepspeed", "--hostfile", hosts, *here, "--module", "mftcoder", "train", config, "--resume")


@pytest.mark.parametrize("way", ["ranks.sh", "torchrun.sh", "deepspeed"])
def test_two_nodes_train_as_one_does_bitwise(way, nodes, write_config, tmp_path):
    config = write_config("two", deepspeed=ZERO2, **STEPS)
    codes = ended([start(way, node, config) for node in nodes], 300)
    assert codes == [0, 0], nodes[0].output + nodes[1].output
    succeed("train", write_config("one", deepspeed=ZERO2, **STEPS), ranks=2)
    assert_same_end(tmp_path / "two", tmp_path / "one")
    assert "loss" not in nodes[1].output, "only rank 0 tells"


def assert_same_end(ours: Path, theirs: Path) -> None:
    first, second = last_checkpoint(ours), last_checkpoint(theirs)
    assert first.name == second.name
    for file in sorted((second / "engine").iterdir()):
        read = [torch.load(path / "engine" / file.name, weights_only=False) for path in (first, second)]
        assert_equal_bitwise(read[0], read[1], file.name)
    assert losses_logged(ours) == losses_logged(theirs)


def steps_done(run: Path) -> int:
    try:
        return sum('"kind": "train"' in line for line in (run / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def test_torchrun_starts_the_ranks_again_and_they_end_as_if_none_had_died(nodes, write_config, tmp_path):
    slower = {"training__max_steps": 40, "training__save_steps": 4, "logging__logging_steps": 1}
    config = write_config("run", deepspeed=ZERO2, **slower)
    processes = [start("torchrun.sh", node, config) for node in nodes]
    until(lambda: steps_done(tmp_path / "run") >= 6, 200)
    os.kill(nodes[1].ranks()[0], signal.SIGKILL)
    assert ended(processes, 400) == [0, 0], nodes[0].output + nodes[1].output
    assert "resuming from" in nodes[0].output
    succeed("train", write_config("whole", deepspeed=ZERO2, **slower), ranks=2)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_dead_node_stops_the_others_by_name(nodes, write_config, tmp_path):
    config = write_config("run", deepspeed=ZERO2, **LONG_RUN)
    processes = [start("ranks.sh", node, config) for node in nodes]
    until(lambda: steps_done(tmp_path / "run") >= 3, 200)
    nodes[1].kill()
    assert ended(processes[:1], 90) == [1]
    assert "node-b" in nodes[0].output
    assert "--resume" in nodes[0].output


def test_nodes_that_are_cut_off_stop_within_the_timeout_and_name_each_other(nodes, write_config, tmp_path):
    config = write_config("run", deepspeed=ZERO2, training__watchdog_seconds=10, **LONG_RUN)
    processes = [start("ranks.sh", node, config) for node in nodes]
    until(lambda: steps_done(tmp_path / "run") >= 3, 200)
    nodes[1].unplug()
    assert ended(processes, 90) == [1, 1]
    assert "node-b" in nodes[0].output
    assert "node-a" in nodes[1].output


def test_a_slow_node_is_named(nodes, write_config, tmp_path):
    config = write_config("run", deepspeed=ZERO2, **LONG_RUN | {"logging__logging_steps": 40})
    for node in nodes:
        start("ranks.sh", node, config)
    until(lambda: steps_done(tmp_path / "run") >= 1, 200)
    over = threading.Event()

    def hinder() -> None:  # a processor that does nothing for three quarters of the time
        (rank,) = nodes[1].ranks()
        while not over.is_set():
            os.kill(rank, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(rank, signal.SIGCONT)
            time.sleep(0.1)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        until(lambda: '"kind": "slow_rank"' in (tmp_path / "run" / "metrics.jsonl").read_text(), 200)
    finally:
        over.set()
        thread.join()
    assert "rank 1 on node-b is slow" in nodes[0].output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {(line["rank"], line["host"]) for line in lines if line["kind"] == "slow_rank"} == {(1, "node-b")}


@pytest.mark.parametrize("key", ["output_dir", "data.shards"])
def test_a_folder_that_the_nodes_do_not_share_is_refused_with_the_node(key, nodes, write_config, tmp_path):
    hidden = tmp_path / ("run" if key == "output_dir" else "shards")
    hidden.mkdir()
    changes = {"data__shards": str(hidden / "new")} if key == "data.shards" else {}
    config = write_config("run", deepspeed=ZERO2, **STEPS, **changes)
    own_disk = f"mount -t tmpfs none {shlex.quote(str(hidden))}"
    start("ranks.sh", nodes[0], config)
    nodes[1].run("tools/launch/ranks.sh", 1, 2, 1, config, before=own_disk)
    assert ended([node.processes[0] for node in nodes], 250) == [2, 2], nodes[0].output + nodes[1].output
    assert f"{key}: {hidden} is another folder on node-b (rank 1)" in nodes[0].output
