"""A trained model behind the protocol of OpenAI's API: models, chat completions and completions, whole or streamed.

The server of transformers reads exported folders only, renders chats otherwise than training does, leaves stop texts in
answers, ignores ``n`` and ``seed`` and answers 500 to wrong requests (5.23.0). So this is around our generation.
"""

import asyncio
import json
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from mftcoder.errors import MftcoderError, RunError
from mftcoder.evaluation.answering import Answer, Question, answer_all, answer_aloud, room_beside
from mftcoder.evaluation.generation import BATCH_SIZE
from mftcoder.evaluation.prompts import prompt_ids, stops_of, with_sentinels
from mftcoder.evaluation.requests import ChatRequest, CompletionRequest
from mftcoder.evaluation.sampling import Draw, Sampling
from mftcoder.training.trained import infilling_tokens, load_for_use

Request = ChatRequest | CompletionRequest


class _Gone(Exception):  # noqa: N818 - it ends an answer that nobody reads any more
    """The client has closed the connection."""


class Server:
    """One model, which answers one request after another."""

    def __init__(self, model: str, name: str) -> None:
        """Load ``model``, which clients see as ``name``."""
        self.name, self.started = name, int(time.time())
        self._sentinels = infilling_tokens(model)
        self._model, self._tokenizer = load_for_use(model)
        self._turn = threading.Lock()

    def questions(self, request: Request) -> list[Question]:
        """What the model is asked, once for each answer; MftcoderError if it cannot be."""
        questions = [
            Question(prompt_ids(self._tokenizer, prompt), stops_of(self._tokenizer, prompt), Draw(number, sample))
            for number, prompt in enumerate(with_sentinels(request.prompts(), self._sentinels))
            for sample in range(request.n)
        ]
        room_beside(self._model, max(len(question.ids) for question in questions))
        return questions

    def answer(self, questions: Sequence[Question], sampling: Sampling) -> list[Answer]:
        """The answers, in the order of ``questions``."""
        with self._turn:
            return answer_all(self._model, self._tokenizer, questions, sampling, batch_size=BATCH_SIZE)

    def answer_aloud(self, question: Question, sampling: Sampling, tell: Callable[[str], None]) -> Answer:
        """One answer, told in pieces; what ``tell`` raises ends it."""
        with self._turn:
            return answer_aloud(self._model, self._tokenizer, question, sampling, tell)


def serve(model: str, *, host: str, port: int, name: str, ready: Callable[[str], None]) -> None:
    """Serve ``model`` until a signal ends it.

    Args:
        model: a run, a checkpoint, a folder that transformers or peft loads, or a hub id.
        host: address to listen on; there is no key, so whoever reaches it can use the model.
        port: to listen on; 0 for any that is free.
        name: of the model, for clients.
        ready: is told the base URL once the model is loaded.
    """
    if missing := [package for package in ("starlette", "uvicorn") if find_spec(package) is None]:
        raise MftcoderError(f"serve: {', '.join(missing)} is not installed. pip install 'mftcoder[serve]' brings it.")
    import uvicorn

    config = uvicorn.Config(lambda: None, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)
    try:
        listening = config.bind_socket()  # before the model is loaded: it may take minutes
    except SystemExit as error:  # uvicorn has said why
        raise RunError(f"serve: cannot listen on {host}:{port}. Give another --port or --host.") from error
    config.app = application(Server(model, name))
    ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/v1")
    uvicorn.Server(config).run(sockets=[listening])


def application(server: Server) -> Any:
    """The routes."""
    from starlette.applications import Starlette
    from starlette.requests import Request as Incoming
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    def refused(message: str, status: int = 400, code: str | None = None) -> Response:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return JSONResponse({"error": error}, status)

    card = {"id": server.name, "object": "model", "created": server.started, "owned_by": "mftcoder"}

    async def models(_: Incoming) -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    async def one_model(incoming: Incoming) -> Response:
        named = incoming.path_params["name"]
        return JSONResponse(card) if named == server.name else refused(f"there is no model {named}", 404, "no_model")

    async def health(_: Incoming) -> Response:
        return JSONResponse({"status": "ok"})

    def answering(kind: type[ChatRequest] | type[CompletionRequest]) -> Callable[[Incoming], Any]:
        async def route(incoming: Incoming) -> Response:
            try:
                request = kind.model_validate_json(await incoming.body())
                if request.model not in (None, server.name):
                    return refused(f"there is no model {request.model}; this is {server.name}", 404, "no_model")
                questions = await asyncio.to_thread(server.questions, request)
                sampling = request.sampling(random.getrandbits(32) if request.seed is None else request.seed)
                if not request.stream:
                    answers = await asyncio.to_thread(server.answer, questions, sampling)
                    return JSONResponse(_whole(server.name, request, questions, answers))
            except ValidationError as error:
                first = error.errors()[0]
                return refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
            except MftcoderError as error:
                return refused(str(error))
            return StreamingResponse(_events(server, request, questions, sampling), media_type="text/event-stream")

        return route

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", answering(ChatRequest), methods=["POST"]),
            Route("/v1/completions", answering(CompletionRequest), methods=["POST"]),
            Route("/health", health),
        ]
    )


def _head(name: str, request: Request, kind: str) -> dict[str, Any]:
    number = f"{request.ID}-{uuid.uuid4().hex}"
    return {"id": number, "object": kind, "created": int(time.time()), "model": name}


def _usage(request: Request, questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, int]:
    prompt = sum(len(question.ids) for question in questions[:: request.n])
    completion = sum(answer.num_tokens for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _whole(name: str, request: Request, questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    choices = [
        {"index": index, "finish_reason": answer.finish, "logprobs": None} | request.content(answer.text)
        for index, answer in enumerate(answers)
    ]
    return _head(name, request, request.OBJECT) | {"choices": choices, "usage": _usage(request, questions, answers)}


async def _events(
    server: Server, request: Request, questions: Sequence[Question], sampling: Sampling
) -> AsyncIterator[str]:
    """Server-sent events: the pieces of each answer in turn, why it ended, the usage if it was asked for."""
    head = _head(server.name, request, request.CHUNK)
    pieces: asyncio.Queue[tuple[int, str | Answer | Exception]] = asyncio.Queue()
    loop, gone = asyncio.get_running_loop(), threading.Event()

    def put(index: int, what: str | Answer | Exception) -> None:
        if gone.is_set():
            raise _Gone
        loop.call_soon_threadsafe(pieces.put_nowait, (index, what))

    def write() -> None:
        with suppress(_Gone):
            for index, question in enumerate(questions):
                try:
                    put(index, server.answer_aloud(question, sampling, partial(put, index)))
                except _Gone:
                    raise
                except Exception as error:  # the headers are sent: it can only be told in the stream
                    put(index, error)

    def event(index: int, text: str | None, finish: str | None = None, first: bool = False) -> str:
        choice = {"index": index, "finish_reason": finish, "logprobs": None} | request.piece(text, first=first)
        return _event(head | {"choices": [choice]})

    writing = asyncio.ensure_future(asyncio.to_thread(write))
    answers: list[Answer] = []
    try:
        begun = -1
        while len(answers) < len(questions):
            index, what = await pieces.get()
            if index > begun:
                begun = index
                yield event(index, "", first=True)
            if isinstance(what, str):
                yield event(index, what)
            elif isinstance(what, Answer):
                answers.append(what)
                yield event(index, None, finish=what.finish)
            else:
                yield _event({"error": {"message": str(what), "type": "server_error"}})
                return
        if request.usage_is_wanted():
            yield _event(head | {"choices": [], "usage": _usage(request, questions, answers)})
        yield "data: [DONE]\n\n"
    finally:
        gone.set()
        writing.cancel()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
