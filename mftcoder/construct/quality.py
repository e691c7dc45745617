"""What is wrong with a sample, by its text alone. ``CHECKS`` is the table: each gives a reason, or an empty string."""

import re
import zlib
from collections.abc import Callable

from mftcoder.construct.functions import LeftOut, parse
from mftcoder.construct.parsing import code_blocks, json_in, prose
from mftcoder.construct.samples import Sample, Stage, Verdict
from mftcoder.construct.settings.samples import Quality

_TELLING = 40  # letters of prose: fewer do not tell a language
_LOOPING = 400  # characters: shorter answers do not count as loops
_OPENING = 300  # characters in which a refusal is spoken

_REFUSAL = re.compile(
    r"\b(i('m| am)?\s+(really\s+|very\s+)?(sorry|afraid)\b[^.\n]{0,60}\b(can('|no)t|unable|not able|won't)"
    r"|i\s+(can('|no)t|cannot|won't|will not|am unable to|am not able to|'m unable to|must decline to)\s+"
    r"(assist|help|comply|fulfil|fulfill|provide|answer|complete|do|create|write|generate)"
    r"|as an ai\b[^.\n]{0,80}\b(can('|no)t|unable|not able|do not|don't)"
    r"|(es tut mir leid|je suis désolée?|lo siento)\b[^.\n]{0,60}\b(kann|peux|puedo)"
    r"|(抱歉|对不起)[^。\n]{0,20}(无法|不能))",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(
    r"\bas an? (ai|artificial intelligence|large language|language)( language)?( model| assistant)?\b"
    r"|\bmy (knowledge|training)( data)? (cut-?off|only goes)"
    r"|\b(i was|i am|i'm) (trained|created|developed|made) by\b"
    r"|(#|//|/\*|--)[^\n]{0,12}\b(rest|remainder) of (the|your) (code|function|class|program|implementation)\b"
    r"|(#|//|/\*|--)[^\n]{0,20}\b(your code|implementation) (goes )?here\b"
    r"|(#|//|/\*|--)[^\n]{0,10}\b(todo|fixme)\b[^\n]{0,20}\bimplement"
    r"|(?-i:\[(Your|Insert|Enter) [^\]\n]{2,30}\])"
    r"|作为(一个)?(人工智能|AI|语言模型)",
    re.IGNORECASE,
)


def _length(sample: Sample, quality: Quality) -> str:
    if any(len(question.strip()) < quality.min_prompt_chars for question in sample.questions):
        return "prompt too short"
    if any(len(answer.strip()) < quality.min_answer_chars for answer in sample.answers):
        return "answer too short"
    return "too long" if sum(len(message["content"]) for message in sample.messages) > quality.max_chars else ""


def _refusal(sample: Sample, quality: Quality) -> str:
    found = quality.refusals == "drop" and any(_REFUSAL.search(answer[:_OPENING]) for answer in sample.answers)
    return "refusal" if found else ""


def _boilerplate(sample: Sample, quality: Quality) -> str:
    found = quality.boilerplate == "drop" and any(_BOILERPLATE.search(answer) for answer in sample.answers)
    return "boilerplate" if found else ""


def _repetition(sample: Sample, quality: Quality) -> str:
    for answer in sample.answers if quality.max_repetition else ():
        raw = answer.encode()
        if len(answer) >= _LOOPING and len(raw) > (quality.max_repetition or 0) * len(zlib.compress(raw)):
            return "repeats itself"
    return ""


def _language(sample: Sample, quality: Quality) -> str:
    """The prose of each side is judged as a whole: single sentences are too short to tell."""
    if quality.languages is None:
        return ""
    for texts in (sample.questions, sample.answers):
        text = prose("\n".join(texts))
        if sum(map(str.isalpha, text)) >= _TELLING and (found := language_of(text)) not in quality.languages:
            return f"language {found}"
    return ""


def _format(sample: Sample, quality: Quality) -> str:
    if not quality.answer_format:
        return ""
    for answer in sample.answers:
        try:
            blocks = code_blocks(answer)
            if sample.format == "json":
                json_in(answer)
        except LeftOut as reason:
            return str(reason)
        if sample.format == "code" and not any(block.code.strip() for block in blocks):
            return "no code block"
    return ""


CHECKS: tuple[Callable[[Sample, Quality], str], ...] = (
    _length,
    _refusal,
    _boilerplate,
    _repetition,
    _format,
    _language,
)


def filter_stage(quality: Quality) -> Stage:
    """The stage that leaves out what fails a check."""

    def stage(sample: Sample) -> Verdict:
        return Verdict(sample, next(filter(None, (check(sample, quality) for check in CHECKS)), ""))

    return stage


def language_of(text: str) -> str:
    """The ISO code of the language that ``text`` most likely is in."""
    from py3langid import classify

    return classify(text)[0]


def python_in(answer: str) -> list[str]:
    """The code blocks that are Python, or say nothing and parse as Python."""
    blocks = code_blocks(answer)
    return [b.code for b in blocks if b.language == "python" or (not b.language and _parses(b.code))]


def _parses(code: str) -> bool:
    return parse(code) is not None
