"""Proving samples: ``VERIFIERS`` says, for each type of the section ``verify``, which function judges a sample."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mftcoder.construct.execution import Case, open_sandbox, prove
from mftcoder.construct.functions import parse
from mftcoder.construct.quality import python_in
from mftcoder.construct.samples import Sample, Stage, Verdict
from mftcoder.construct.settings.samples import ExecuteVerification, ParseVerification, Verification
from mftcoder.sandbox.sandbox import Sandbox


def _parse(settings: ParseVerification, sandbox: Sandbox | None) -> Stage:
    def stage(sample: Sample) -> Verdict:
        codes = [code for answer in sample.answers for code in python_in(answer)]
        if any(parse(code) is None for code in codes):
            return Verdict(sample, "does not parse")
        return Verdict(sample.proven(parsed=len(codes)))

    return stage


def _execute(settings: ExecuteVerification, sandbox: Sandbox | None) -> Stage:
    assert sandbox is not None

    def stage(sample: Sample) -> Verdict:
        parts = sample.parts
        case = Case(parts.get("language", ""), parts.get("code", ""), parts.get("tests", ""))
        proof = prove(case, settings, sandbox)
        if proof.unverifiable and settings.unverifiable == "keep":
            return Verdict(sample.proven(unverifiable=proof.reason))
        if proof.reason:
            return Verdict(sample, f"unverifiable: {proof.reason}" if proof.unverifiable else proof.reason)
        return Verdict(sample.proven(**proof.details))

    return stage


VERIFIERS: dict[str, Callable[[Any, Sandbox | None], Stage]] = {
    "parse": _parse,
    "execute": _execute,
}


def verify_stage(settings: Verification, sandbox: Sandbox | None = None) -> Stage:
    """The stage that ``verify`` of the config asks for. It may be called in several threads at once."""
    return VERIFIERS[settings.type](settings, sandbox)


@contextmanager
def sandbox_for(settings: Verification | None, *, allowed: bool, workers: int) -> Iterator[Sandbox | None]:
    """The sandbox that ``verify_stage`` needs, if any; MftcoderError where there can be none, or it is not allowed."""
    if isinstance(settings, ExecuteVerification):
        with open_sandbox(settings, allowed=allowed, workers=workers) as sandbox:
            yield sandbox
    else:
        yield None
