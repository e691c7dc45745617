"""An HTTP client that reads no more of a response than it was told to, and no compressed one, which could be a bomb."""

from collections.abc import AsyncIterator

import httpx2

from mftcoder.construct.endpoint import TooLarge


def bounded_client(max_bytes: int, connections: int) -> httpx2.AsyncClient:
    """A client whose responses have at most ``max_bytes``; TooLarge is raised where one is longer."""

    async def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooLarge("compressed, which was not asked for")
        response.stream = _Stream(response.stream, max_bytes)

    return httpx2.AsyncClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        headers={"accept-encoding": "identity"},
        follow_redirects=False,  # the key would go along
        event_hooks={"response": [bound]},
    )


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for chunk in self._inner:
            left -= len(chunk)
            if left < 0:
                raise TooLarge(f"more than {self._max_bytes:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
