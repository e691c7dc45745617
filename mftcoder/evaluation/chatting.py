"""A conversation with a model, line by line."""

import sys
from collections.abc import Iterator

from mftcoder.data.records import Conversation, Message
from mftcoder.errors import MftcoderError
from mftcoder.evaluation.answering import Question, Tell, answer_aloud
from mftcoder.evaluation.prompts import prompt_ids, stops_of
from mftcoder.evaluation.sampling import Draw, Sampling
from mftcoder.training.trained import load_for_use

HELP = "One message a line. /reset begins anew, /exit or Ctrl-D ends; Ctrl-C ends an answer."


def chat(model: str, sampling: Sampling, *, system: str | None = None, tell: Tell) -> None:
    """Answer the lines of standard input, each with what was said before in view, until it ends.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        sampling: how tokens are chosen; each answer is another draw.
        system: what the system message says.
        tell: takes the pieces of the answers as they grow.
    """
    loaded, tokenizer = load_for_use(model)
    opening = () if system is None else (Message("system", system, False),)
    said = opening
    stops = stops_of(tokenizer, Conversation(opening))
    if sys.stdin.isatty():
        print(HELP, file=sys.stderr)
    for number, line in enumerate(_lines()):
        if line == "/reset":
            said = opening
            continue
        asked = (*said, Message("user", line, False))
        pieces: list[str] = []

        def keep(piece: str, pieces: list[str] = pieces) -> None:
            pieces.append(piece)
            tell(piece)

        try:
            ids = prompt_ids(tokenizer, Conversation(asked, where="the conversation"))
            answer_aloud(loaded, tokenizer, Question(ids, stops, Draw(number)), sampling, keep)
        except MftcoderError as error:  # as when the conversation has grown too long
            if not said[len(opening) :]:
                raise
            print(f"{error} /reset begins anew.", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            pass
        tell("\n")
        said = (*asked, Message("assistant", "".join(pieces), False))


def _lines() -> Iterator[str]:
    """Lines of standard input that say something, up to its end or /exit."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - from now on input() has a history and can be edited
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise MftcoderError(f"standard input: is not UTF-8 text: {error}.") from None
        if line == "/exit":
            return
        if line:
            yield line
