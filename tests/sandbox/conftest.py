"""Every kind of sandbox that this machine can have."""

import os
from collections.abc import Callable, Iterator

import pytest
from containment import SECRET, Contained
from ordinary_user import sandbox_of_ordinary_user

from mftcoder.errors import MftcoderError
from mftcoder.sandbox.outcome import Outcome
from mftcoder.sandbox.sandbox import PYTHON, Sandbox

KINDS = ("namespaces", "namespaces, ordinary user", "bubblewrap, ordinary user")


@pytest.fixture(scope="session", params=KINDS)
def contained(request: pytest.FixtureRequest) -> Iterator[Callable[..., Outcome]]:
    backend, _, ordinary = request.param.partition(", ")
    os.environ["MFTCODER_SECRET"] = SECRET
    is_root = os.geteuid() == 0
    if is_root and ordinary:
        try:
            with sandbox_of_ordinary_user(backend) as (sandbox, python):
                yield Contained(sandbox, python)
        except RuntimeError as reason:
            pytest.skip(str(reason))
        return
    if not is_root and not ordinary:
        pytest.skip("not root")
    try:
        with Sandbox(backend=backend) as sandbox:
            yield Contained(sandbox, PYTHON)
    except MftcoderError as reason:
        pytest.skip(str(reason))
