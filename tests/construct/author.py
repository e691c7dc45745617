"""A script for the endpoint that writes what each prompt asks for: another thing for every request, always the same."""

import hashlib
import re
from random import Random

from endpoint import Reply, Request

VERBS = [
    "sort",
    "merge",
    "parse",
    "count",
    "reverse",
    "filter",
    "group",
    "rotate",
    "encode",
    "validate",
    "schedule",
    "normalise",
]
THINGS = [
    "orders",
    "sensor",
    "readings",
    "invoices",
    "chess",
    "moves",
    "recipes",
    "log",
    "lines",
    "matrices",
    "playlists",
    "coordinates",
]
LIMITS = ["without recursion", "in linear time", "for a million entries", "with typed errors", "in constant memory"]


def author(request: Request) -> Reply:
    """The reply of a model that does as it is told."""
    rng = Random(hashlib.sha256(request.conversation.encode()).hexdigest())
    prompt = request.prompt
    if found := re.search(r"numbered list from 1 to (\d+)", prompt):
        return Reply("\n".join(f"{n}. {task(rng)}" for n in range(1, int(found[1]) + 1)))
    if "Do the two ask for the same thing" in prompt:
        return Reply(rng.choice(["SAME", "DIFFERENT"]))
    if "Answer with the new task alone" in prompt or "Answer with the goal" in prompt:
        return Reply(f"{task(rng)} Then {task(rng).lower()}")
    if "You are a" in request.body["messages"][0]["content"] and "GOAL REACHED" in request.conversation:
        return Reply("GOAL REACHED" if rng.random() < 0.3 else f"How would I {task(rng).lower()}")
    if "Put one realistic bug" in prompt:
        return Reply(
            "The result is off by one.\n\n"
            + prompt[prompt.index("```") :].partition("\n\nThe code")[0].replace("return ", "return 1 + ", 1)
        )
    return Reply(
        f"{task(rng)} Here it is:\n\n```python\ndef {rng.choice(VERBS)}_{rng.randrange(10**6)}(x):\n    return x\n```"
    )


def task(rng: Random) -> str:
    words = " ".join(f"{rng.choice(VERBS)} {rng.choice(THINGS)} {rng.choice(LIMITS)}" for _ in range(3))
    return f"Write a function that can {words}, number {rng.randrange(10**6)}."
