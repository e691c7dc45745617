"""What must not be learnt by heart: keys, tokens and passwords, for which a file is left out; addresses, masked.

Patterns of the well-known issuers' own forms first, then strings that look random and are assigned to a name that says
what they are.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

MASKED_EMAIL = "user@example.com"
LEAST_BITS = 3.0  # of entropy per character of a string that may be a secret; words have fewer, digests 4 and more

_ISSUED: dict[str, str] = {  # what a file holds -> its form
    "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "cloud key": r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}",
    "token": r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}|\bhf_[A-Za-z0-9]{30,}"
    r"|\bxox[abeoprs]-[\w-]{10,}|\bnpm_[A-Za-z0-9]{36}|\bpypi-AgE[\w-]{50,}|\bdop_v1_[a-f0-9]{64}"
    r"|\bsk-(?:proj-|ant-)?[\w-]{20,}|\b[rs]k_live_[A-Za-z0-9]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}|\bya29\.[\w-]{20,}",
    "password in an address": r"\b[a-z][a-z0-9+.-]{2,}://[^\s:/@'\"<>{}$%]{1,64}:[^\s/@'\"<>{}$%]{6,64}@[\w.-]+",
    "webhook": r"https://hooks\.slack\.com/services/T\w+/B\w+/\w{20,}",
}
_ISSUED_PATTERN = re.compile("|".join(f"(?P<k{number}>{form})" for number, form in enumerate(_ISSUED.values())))
_ISSUED_HINT = re.compile(
    r"-----BEGIN|AKIA|ASIA|AGPA|AIDA|AROA|ANPA|AIza|gh[pousr]_|github_pat_|glpat-|hf_|xox|npm_|pypi-|dop_v1|sk-|k_live_|SG\.|eyJ|ya29|://"
)
_NAMED = re.compile(
    r"(?i:\b[\w.-]*(?:api_?key|apikey|secret|passw(?:or)?d|access_?key|auth_?token|access_?token|private_?key|credential)"
    r"[\w-]*[\"'\]]*\s*(?:[:=]|=>|:=)+\s*[rbu]?)([\"'`])([^\s\"'`]{16,})\1"
)
_EMAIL = re.compile(
    r"(?<![\w.+@/-])(?!git@)[A-Za-z0-9](?:[\w.+-]{0,62}[A-Za-z0-9_])?@(?!example\.)(?:[A-Za-z0-9-]{1,63}\.){1,4}"
    r"(?:com|org|net|edu|gov|mil|int|info|biz|name|pro|io|dev|ai|app|me|tv|cc|eu|[a-z]{2})\b(?![\w(=.-]*\()"
)


def secret(text: str) -> str | None:
    """What kind of secret a text seems to hold, if any."""
    if _ISSUED_HINT.search(text):
        found = _ISSUED_PATTERN.search(text)
        if found is not None and found.lastgroup:
            return list(_ISSUED)[int(found.lastgroup.removeprefix("k"))]
    for _, value in _named(text):
        if _looks_random(value):
            return "secret in a string"
    return None


def without_emails(text: str) -> tuple[str, int]:
    """The text with its e-mail addresses masked, and their number; those of example domains stay."""
    return _EMAIL.subn(MASKED_EMAIL, text) if "@" in text else (text, 0)


def _named(text: str) -> Iterator[tuple[str, str]]:
    return (match.groups() for match in _NAMED.finditer(text))  # type: ignore[misc]


def _looks_random(value: str) -> bool:
    """Digits among letters and no more structure than chance gives; not a name, a path, a template or an address."""
    if re.search(r"[{}<>$%()\\]|://|\.\.|^[./]|(.)\1{4}", value) or re.fullmatch(r"[A-Za-z]+([._ -][A-Za-z]+)*", value):
        return False
    if not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
        return False
    total = len(value)
    bits = -sum(count / total * math.log2(count / total) for count in Counter(value).values())
    return bits >= LEAST_BITS
