"""What self-contained HTML pages share: templates that escape, a policy that forbids requests, the way to disk."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mftcoder.errors import MftcoderError
from mftcoder.report.compare import ABSENT


def check_is_file(to: Path) -> None:
    """MftcoderError if ``to`` is a folder."""
    if to.is_dir():
        raise MftcoderError(
            f"{to}: a file name is needed for the page, found a folder. Name a file, as {to}/report.html."
        )


def write_page(page: str, to: Path) -> Path:
    """Put ``page`` in place as a whole; returns ``to``."""
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    aside.write_text(page, encoding="utf-8", errors="replace")  # JSON can hold lone surrogates, UTF-8 cannot
    aside.replace(to)
    return to


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: Any) -> str:
    """The page that ``template`` of this package makes of ``values``, which it escapes.

    Args:
        styles: style sheets of this package beside page.css.
        scripts: what may run there.
    """
    style = Markup("").join(resource(name) for name in ("page.css", *styles))
    page = _environment().get_template(template)
    return page.render(policy=_content_security_policy(*scripts), style=style, **values)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mftcoder.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, duration=_duration, pretty=_pretty)
    return environment


def _number(value: Any, spec: str = ",.4g") -> str:
    """``value`` as text: whole numbers in full, others by ``spec``, what is not known as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ABSENT
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:{spec}}".replace("-", "−") if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ABSENT
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def resource(name: str) -> Markup:
    """A file of this package."""
    return Markup((files("mftcoder.report") / name).read_text(encoding="utf-8"))


def embed(value: Any) -> Markup:
    """``value`` as JSON that cannot close its script element, whatever its strings hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _content_security_policy(*scripts: str) -> str:
    """A policy that lets these scripts run and nothing else run or load, should escaping ever fail."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
