"""A process that runs one program after another, contained, for whoever holds the other end of its socket.

It is apart from mftcoder so that it can fork in a millisecond, has one thread, and holds nothing worth stealing.
"""

import json
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from mftcoder.sandbox import bubblewrap, namespaces, watch

_LENGTH = struct.Struct("!Q")


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends a message of JSON."""
    raw = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(raw)) + raw)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other end is closed."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    raw = _exactly(connection, _LENGTH.unpack(head)[0])
    return None if raw is None else json.loads(raw)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    taken = bytearray()
    while len(taken) < size:
        chunk = connection.recv(min(size - len(taken), 2**20))
        if not chunk:
            return None
        taken += chunk
    return bytes(taken)


def main(descriptor: int) -> None:
    """Serves the socket ``descriptor`` until its other end is closed."""
    os.set_inheritable(descriptor, False)  # or bubblewrap would hand it on to programs
    connection = socket.socket(fileno=descriptor)
    task = receive(connection)
    if task is None:
        return
    filter_program = bytes.fromhex(task["filter"])
    view = task["view"]
    try:
        if task["backend"] == "namespaces":
            keeper = namespaces.keeper_process()
            if keeper:
                connection.close()
                os.waitpid(keeper, 0)
                return
            namespaces.prepare_root(view)
    except OSError as error:
        send(connection, {"error": f"{error.strerror}"})
        return
    if task["backend"] == "namespaces":
        _serve(connection, lambda request: namespaces.run(request, view, filter_program, descriptor))
    else:
        programs = task["programs"]
        _serve(connection, lambda request: bubblewrap.run(request, view, filter_program, descriptor, programs))


def _serve(connection: socket.socket, run: Callable[[dict[str, Any]], watch.Ended | str]) -> None:
    send(connection, {"ready": True})
    while (request := receive(connection)) is not None:
        try:
            ended = run(request)
        except watch.OwnerGone:
            return
        except OSError as error:
            ended = f"{error.strerror}"
        send(connection, {"error": ended} if isinstance(ended, str) else _outcome(ended))


def _outcome(ended: watch.Ended) -> dict[str, Any]:
    code = None if ended.reason else os.waitstatus_to_exitcode(ended.status)
    return {
        "reason": ended.reason or ("failed" if code else "ok"),
        "exit_code": code,
        "stdout": ended.stdout.decode(errors="replace"),
        "stderr": ended.stderr.decode(errors="replace"),
        "seconds": ended.seconds,
        "cpu_seconds": ended.cpu_seconds,
        "peak_bytes": ended.peak_bytes,
    }
