"""The page in a real browser, whose network log tells what the page asked for."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mftcoder.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


@pytest.fixture
def browse(tmp_path):
    """browse(page) -> (the DOM after scripts ran, the addresses that the page requested)."""

    def open_page(page: Path) -> tuple[str, list[str]]:
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *(
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
            ),
            *("--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=<-loopback>"),  # nobody listens there
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}"),
            *("--virtual-time-budget=10000", "--dump-dom", page.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.stdout, requested_by_pages(json.loads((tmp_path / "net.json").read_text()))

    return open_page


def requested_by_pages(log: dict) -> list[str]:
    """Addresses in a network log, without what the browser asks for on its own account (which has no origin)."""
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in log["events"] if event["type"] == start and "url" in event.get("params", {})]
    return [job["url"] for job in jobs if job.get("initiator") != "not an origin"]


def test_every_plot_is_drawn_and_no_request_leaves_the_page(make_run, tmp_path, browse):
    dom, requests = browse(write_report([make_run("a"), make_run("b", seed=1)], tmp_path / "report.html"))
    body = dom[dom.rindex("<body") :]
    assert len(re.findall(r'class="plot[ "]', body)) == 19
    assert len(re.findall(r'<svg class="main-svg"[^>]*style="background', body)) == 19
    assert body.count('class="trace scatter') == 2 * (11 * 4 + 8)
    assert requests == []


def test_the_log_shows_a_request_that_leaves_a_page(tmp_path, browse):
    page = tmp_path / "leaky.html"
    page.write_text('<img src="http://leak.invalid/picture.png">')
    _, requests = browse(page)
    assert requests == ["http://leak.invalid/picture.png"]


def test_samples_are_shown_and_run_and_load_nothing(samples_page, browse):
    attack = '</pre><script>document.title="pwned"</script><img src="http://leak.invalid/x" onerror="alert(1)">'
    page = samples_page(["harmless", attack])
    dom, requests = browse(page)
    assert f"<title>{page.parent}/run/shards · mftcoder inspect</title>" in dom
    assert "harmless" in dom
    assert requests == []


def test_hostile_names_and_texts_run_nothing_and_load_nothing(tmp_path, browse):
    run = "document.title='pwned'"
    attack = f'</script><script>{run}</script><img src="http://leak.invalid/x" onerror="{run}">'
    folder = tmp_path / "run"
    folder.mkdir()
    line = {"kind": "train", "step": 1, "losses": {attack: 1.0}, "weights": {attack: 1.0}}
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line | {"step": step}) for step in (1, 2, 3)))
    (folder / "config.json").write_text(json.dumps({attack: attack}))
    (folder / "run.json").write_text(json.dumps({"notes": [attack], attack: attack}))
    (folder / "generations.jsonl").write_text(json.dumps({"task": attack, "prompt": attack, "generated": attack}))
    dom, requests = browse(write_report([folder], tmp_path / "report.html"))
    assert "<title>run · mftcoder report</title>" in dom
    assert 'class="trace scatter' in dom
    assert requests == []
