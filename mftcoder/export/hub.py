"""Pushing an exported folder to the Hugging Face hub.

The library knows the protocol. It finds the token (``HF_TOKEN``, or that of its login) and the address
(``HF_ENDPOINT``), and asks before it sends a large file, so a push that was cut off sends only what the hub does not
have yet.
"""

import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from mftcoder.config.load import read_json
from mftcoder.errors import MftcoderError, RunError
from mftcoder.export.record import is_ours

T = TypeVar("T")
TRIES = 4
LONGEST_WAIT_SECONDS = 600.0  # that a hub may ask for
# Weights of an earlier push that was cut otherwise; what is pushed now is not deleted.
STALE = ["*.safetensors", "*.safetensors.index.json", "plots/*.svg"]
REMEDIES = {
    401: "The hub does not know this token. Set HF_TOKEN to one that may write, or call hf auth login.",
    403: "The token may not write there. Set HF_TOKEN to one that may, or name a repository of yours.",
    404: "There is no such repository or revision, or the token may not see it.",
}


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    tell: Callable[[str], None] = print,
) -> str:
    """Upload ``folder``, an export of this program, as one commit. Returns the address of the commit or pull request.

    Args:
        folder: nothing in it is changed.
        repository: ORG/NAME; made if it is not there.
        private: of a repository that is made.
        revision: branch, made if it is not there; default: main.
        create_pr: as a pull request against ``revision``.
        message: of the commit.
        tell: takes lines for the user.

    Raises MftcoderError if ``folder`` is not one of ours, and RunError, with the command that goes on, if the hub
    refuses or cannot be reached.
    """
    if not is_ours(folder):
        raise MftcoderError(f"--push: {folder} is no whole export. Export the run first: mftcoder export RUN --to DIR.")
    check_adapter_base(folder)
    api = HfApi()

    def upload() -> str:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        if revision and not create_pr:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=message or f"{folder.name}, by mftcoder",
            delete_patterns=STALE,
        )
        return done.pr_url or done.commit_url

    try:
        return _patiently(upload, tell)
    except Exception as error:  # of network, hub, or its library: each has its own
        command = continue_command(folder, repository, private=private, revision=revision, create_pr=create_pr)
        raise RunError(
            f"--push: {repository}: {reason(error)}\n{folder} is complete. To go on: {command}"
        ) from None  # the library's own errors may show headers


def check_adapter_base(folder: Path) -> None:
    """MftcoderError if ``folder`` holds an adapter whose base model is named by a path: nobody else could load it."""
    settings = folder / "adapter_config.json"
    base = read_json(settings).get("base_model_name_or_path") if settings.is_file() else None
    if base is not None and not is_hub_id(str(base)):
        raise MftcoderError(without_base(str(base)))


def is_hub_id(name: str) -> bool:
    """Whether ``name`` is that of a repository, and no folder here."""
    return re.fullmatch(r"([\w.-]+/)?[\w.-]+", name) is not None and not Path(name).is_dir()


def without_base(path: str) -> str:
    """Why an adapter on the base model in ``path`` cannot be pushed."""
    return (
        f"--push: the adapter's base model is the folder {path}, which nobody else has. Export it with --base-model "
        "ORG/NAME, the hub id of which that is a copy (export.base_model in the config); or export without --adapter."
    )


def continue_command(
    folder: Path, repository: str, *, private: bool = True, revision: str | None = None, create_pr: bool = False
) -> str:
    """What to type to push ``folder`` once more; what the hub has already is not sent again."""
    words = ["mftcoder", "export", str(folder), "--push", repository]
    words += [] if private else ["--public"]
    words += ["--revision", revision] if revision else []
    words += ["--create-pr"] if create_pr else []
    return shlex.join(words)


def reason(error: Exception) -> str:
    """What went wrong and what to do, in a line, without the token."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked. Unset it."
    if isinstance(error, HFValidationError):
        return without_token(f"{error}.")
    status = _status(error)
    text = " ".join(without_token(str(error)).split())
    if status in REMEDIES:
        return f"the hub answered {status}. {REMEDIES[status]} ({text[:300]})"
    return f"{type(error).__name__}: {text[:400]}"


def without_token(text: str) -> str:
    """``text`` without the token in use, or anything that looks like one."""
    for token in filter(None, (get_token(), os.environ.get("HF_TOKEN"))):
        text = text.replace(token, "<token>")
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "<token>", text)


def _patiently(action: Callable[[], T], tell: Callable[[str], None]) -> T:
    """``action``, again after a while if the hub is busy or the connection broke."""
    for number in range(1, TRIES):
        try:
            return action()
        except Exception as error:
            seconds = _wait(error, number)
            if seconds is None:
                raise
            tell(f"push: {reason(error)} Trying again in {seconds:g} s")
            time.sleep(seconds)
    return action()


def _wait(error: Exception, number: int) -> float | None:
    """Seconds until the next try after the ``number``-th failed; None if trying again is of no use."""
    status = _status(error)
    if status is None:  # httpx and httpx2 have the same errors
        broken = isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")
        return 2.0**number if broken else None
    if status != 429 and status < 500:
        return None
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    seconds = float(asked) if asked.isdecimal() else 2.0**number
    return seconds if seconds <= LONGEST_WAIT_SECONDS else None


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)
