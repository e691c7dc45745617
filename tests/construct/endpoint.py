"""A server on loopback that speaks the chat-completions protocol and says what its script tells it to, also hostile."""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What the server does with a request."""

    text: str | None = ""
    status: int = 200
    finish: str = "stop"
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5})
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # the whole body, in place of a completion
    delay: float = 0.0  # seconds before the first byte
    reset: bool = False  # the connection is cut in the middle of the body
    repeat: int = 1  # the body is sent so often


@dataclass
class Request:
    """A request as the server saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    attempt: int  # how often this very body came before, from 0

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]

    @property
    def conversation(self) -> str:
        return "\n".join(message["content"] for message in self.body["messages"])


Script = Callable[[Request], Reply]


class Server:
    """A context: the server in a thread of its own. ``url`` is its base; ``requests`` is all that came, in order."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.answered: Counter[str] = Counter()  # by hash of the body: replies that were sent whole
        self.at_once = self.most_at_once = 0
        self._came: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert first.startswith("POST /v1/chat/completions ")
        digest = hash_of(body)
        request = Request(body, headers, self._came[digest])
        self._came[digest] += 1
        self.requests.append(request)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            reply = self.script(request)
            await asyncio.sleep(reply.delay)
            return await self._send(reply, request, digest, writer)
        finally:
            self.at_once -= 1

    async def _send(self, reply: Reply, request: Request, digest: str, writer: asyncio.StreamWriter) -> bool:
        content = _completion(reply, request) if reply.raw is None else reply.raw
        names = {"content-type": "application/json", "content-length": str(len(content) * reply.repeat)} | reply.headers
        head = f"HTTP/1.1 {reply.status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in names.items())
        writer.write(head.encode() + b"\r\n")
        if reply.reset:
            writer.write(content[: len(content) // 2])
            await writer.drain()
            writer.transport.abort()
            return False
        for _ in range(reply.repeat):
            writer.write(content)
            await writer.drain()
        if reply.status == 200 and reply.raw is None:
            self.answered[digest] += 1
        return True


def hash_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _completion(reply: Reply, request: Request) -> bytes:
    message = {"role": "assistant", "content": reply.text}
    completion = {
        "id": "x",
        "object": "chat.completion",
        "model": request.body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
    }
    return json.dumps(completion | ({"usage": reply.usage} if reply.usage is not None else {})).encode()
