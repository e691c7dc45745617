"""Proving samples: ``VERIFIERS`` says, for each type of the section ``verify``, which function judges a sample."""

from collections.abc import Callable
from typing import Any

from mftcoder.construct.functions import parse
from mftcoder.construct.quality import python_in
from mftcoder.construct.samples import Sample, Stage, Verdict
from mftcoder.construct.settings.samples import ParseVerification, Verification


def _parse(settings: ParseVerification) -> Stage:
    def stage(sample: Sample) -> Verdict:
        codes = [code for answer in sample.answers for code in python_in(answer)]
        if any(parse(code) is None for code in codes):
            return Verdict(sample, "does not parse")
        return Verdict(sample.proven(parsed=len(codes)))

    return stage


VERIFIERS: dict[str, Callable[[Any], Stage]] = {
    "parse": _parse,
}


def verify_stage(settings: Verification) -> Stage:
    """The stage that ``verify`` of the config asks for. It may be called in several threads at once."""
    return VERIFIERS[settings.type](settings)
