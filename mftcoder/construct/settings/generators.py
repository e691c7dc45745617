"""Section ``generator``: one class per way of asking. What they do is in ``construct.generators``."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema import NonEmpty, PositiveInt, Section

Files = NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]
Seeds = Annotated[
    Files | None,
    Field(
        description="File, folder or glob, or several, of records in any format, or of `instruction` alone: the first "
        "user message is the instruction. Default: seeds of our own about code."
    ),
]
Topics = Annotated[
    list[NonEmpty],
    Field(
        min_length=1,
        description="Names of ready-made lists (see `mftcoder construct topics`), or text files with a topic a line.",
    ),
]
MaxItems = Annotated[PositiveInt | None, Field(description="Use at most so many of them, drawn; default: all.")]


class _Asking(Section):
    """What all generators have."""

    prompts: dict[str, NonEmpty] = Field(
        {}, description="Name of a prompt of this generator to a file of your own (Jinja) that replaces it."
    )


class SelfInstruct(_Asking):
    """New instructions from examples of old ones, then answers (Self-Instruct; Wang et al., ACL 2023)."""

    type: Literal["self_instruct"]
    seeds: Seeds = None
    instructions: PositiveInt = Field(description="Stop at so many new ones.")
    per_request: PositiveInt = Field(8, description="New instructions that a request asks for.")
    seed_examples: PositiveInt = Field(6, description="Seeds that a request shows.")
    new_examples: Annotated[int, Field(ge=0)] = Field(2, description="Earlier new instructions that a request shows.")
    requests_per_round: PositiveInt = Field(
        16, description="Requests that see the same pool of instructions; then what is new joins the pool."
    )
    max_rouge: Annotated[float, Field(gt=0, le=1)] = Field(
        0.7, description="An instruction is new if its ROUGE-L with every earlier one is below this."
    )
    barren_rounds: PositiveInt = Field(3, description="So many rounds in a row without anything new, and it ends.")


class Pair(Section):
    """Who talks with whom."""

    teacher: NonEmpty = Field(description="Role of the one whose words are learnt, such as `senior Python engineer`.")
    student: NonEmpty = Field(description="Role of the one who asks, such as `data analyst new to Python`.")


class TwoAgents(_Asking):
    """A student and a teacher talk until the student's goal is reached (CAMEL; Li et al., NeurIPS 2023)."""

    type: Literal["two_agents"]
    pairs: Annotated[list[Pair], Field(min_length=1)] = Field(description="Each talks about each topic.")
    topics: Topics
    max_topics: MaxItems = None
    conversations_per_topic: PositiveInt = Field(1, description="Of each pair, with goals of their own.")
    min_exchanges: PositiveInt = Field(2, description="Shorter conversations are left out.")
    max_exchanges: PositiveInt = Field(6, description="A question and its answer are one.")
    max_context_tokens: PositiveInt = Field(6000, description="A conversation ends before its prompt is longer.")


class SingleTurn(_Asking):
    """A brief from a topic, a question from the brief, a solution (Code Exercises, Textbook)."""

    type: Literal["single_turn"]
    topics: Topics
    max_topics: MaxItems = None
    styles: Annotated[list[Literal["exercise", "textbook"]], Field(min_length=1)] = Field(
        ["exercise"],
        description="`exercise`: a task and its solution in code; `textbook`: a question and a section of a book.",
    )
    language: NonEmpty = Field("Python", description="Programming language of the solutions.")
    levels: Annotated[list[NonEmpty], Field(min_length=1)] = Field(
        ["beginner", "intermediate", "advanced"], description="Whom questions are for; each topic goes through all."
    )
    questions: PositiveInt = Field(2, description="Asked for in one request, of each topic, style and level.")


class Evolve(_Asking):
    """Instructions made harder or different along named axes (Evol-Instruct; Xu et al., ICLR 2024)."""

    type: Literal["evolve"]
    seeds: Seeds = None
    max_seeds: MaxItems = None
    rounds: PositiveInt = Field(3, description="How often an instruction is evolved.")
    axes: Annotated[list[NonEmpty], Field(min_length=1)] = Field(
        ["constraints", "depth", "concrete", "reasoning", "input", "breadth"],
        description="One is drawn each time; `axis-NAME` is its prompt, which `prompts` may add to.",
    )
    max_rouge: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="An evolved instruction whose ROUGE-L with its parent is not below this has not evolved."
    )
    max_growth: Annotated[float, Field(gt=1)] = Field(
        4.0,
        description="One that is so many times as long as its parent, and over 600 characters, has got out of hand.",
    )
    judge: bool = Field(False, description="The model is asked, too, whether the two are the same (a request more).")
    keep_seeds: bool = Field(False, description="Answer the seeds, too.")


class Transform(_Asking):
    """Tasks made of existing code: comment, tests, translate, repair, explain."""

    type: Literal["transform"]
    transforms: Annotated[list[Literal["comment", "tests", "translate", "repair", "explain"]], Field(min_length=1)] = (
        Field(description="What is made of each piece of code.")
    )
    roots: Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None, description="Folders of Python source: each function is a piece. Default: this Python's standard library."
    )
    snippets: Files | None = Field(
        None, description="Records with `code` and `language`, instead of folders; `path`, if there, is the group."
    )
    max_pieces: MaxItems = None
    max_piece_chars: PositiveInt = Field(4000, description="Longer pieces are left out.")
    into: Annotated[list[NonEmpty], Field(min_length=1)] = Field(
        ["JavaScript", "Java", "C++", "Go"], description="Languages to translate into; one is drawn for each piece."
    )


Generator = Annotated[
    SelfInstruct | TwoAgents | SingleTurn | Evolve | Transform,
    Field(discriminator="type"),
]
