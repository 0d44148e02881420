"""Takes a flow's steps: carries requests to the server, and turns what goes wrong into this package's errors.

Both transports raise APIConnectionError when no answer comes, APIStatusError when the answer is an error, and
APIResponseError when it is not what the request wants.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from typing import Any, TypeVar

import httpx2

from ._exceptions import APIConnectionError, APIResponseError, APITimeoutError, LookonceError, status_error
from ._flows import Flow, Pause
from ._protocol import Request

_CONNECT_SECONDS = 10.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
T = TypeVar("T")


class Transport:
    """One connection pool to one server, which any number of threads may use."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self._client = httpx2.Client(**client_settings(base_url, api_key, timeout))

    def run(self, flow: Flow[T]) -> T:
        """Take a flow's steps, and return its result."""
        with closing(flow):
            try:
                step = next(flow)
                while True:
                    try:
                        outcome = self._take(step)
                    except LookonceError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(outcome)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    @contextmanager
    def events(self, response: httpx2.Response) -> Iterator[Iterator[str]]:
        """The data of each event of a reply, which is closed at the end."""
        with closing(response), connection_errors():
            yield (event.data for event in httpx2.EventSource(response))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _take(self, step: Request | Pause) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        with connection_errors():
            response = self._client.send(build(self._client, step), stream=True)
            if step.reply == "events" and response.is_success:
                return response
            with closing(response):
                response.read()
        return read(step, response)


class AsyncTransport:
    """As `Transport`, for asyncio."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self._client = httpx2.AsyncClient(**client_settings(base_url, api_key, timeout))

    async def run(self, flow: Flow[T]) -> T:
        """Take a flow's steps, and return its result."""
        with closing(flow):
            try:
                step = next(flow)
                while True:
                    try:
                        outcome = await self._take(step)
                    except LookonceError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(outcome)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    @asynccontextmanager
    async def events(self, response: httpx2.Response) -> AsyncIterator[AsyncIterator[str]]:
        """The data of each event of a reply, which is closed at the end."""
        async with aclosing(response), aclosing(_data(response)) as events:
            with connection_errors():
                yield events

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _take(self, step: Request | Pause) -> Any:
        if isinstance(step, Pause):
            import asyncio

            return await asyncio.sleep(step.seconds)
        with connection_errors():
            response = await self._client.send(build(self._client, step), stream=True)
            if step.reply == "events" and response.is_success:
                return response
            async with aclosing(response):
                await response.aread()
        return read(step, response)


async def _data(response: httpx2.Response) -> AsyncGenerator[str, None]:
    async for event in httpx2.EventSource(response):
        yield event.data


def client_settings(base_url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """The arguments of an httpx2 client; a proxy of the environment is not asked for this machine's own addresses."""
    url = server_url(base_url)
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        "trust_env": url.host not in _LOOPBACK,
        # Reading the system's certificates takes longer than a question; plain HTTP needs a context that trusts none.
        "verify": url.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    }


def server_url(base_url: str) -> httpx2.URL:
    """Check a server's address; the `/v1` that OpenAI's clients want at its end is taken off."""
    try:
        url = httpx2.URL(base_url.rstrip("/").removesuffix("/v1"))
    except httpx2.InvalidURL as error:
        raise ValueError(f"base_url is {base_url!r}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url is {base_url!r}; http://host:port or https://host:port is expected")
    return url


def build(client: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
    """A request as httpx2 sends it."""
    return client.build_request(request.method, request.path, params=request.query, json=request.body)


def read(request: Request, response: httpx2.Response) -> Any:
    """The reply's body, in the form that the request names."""
    if not response.is_success:
        raise status_error(response)
    if request.reply == "bytes":
        return response.content
    try:
        return response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "no content type")
        raise APIResponseError(
            f"the reply of {response.url} is not JSON ({kind}); is this a lookonce server?"
        ) from error


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn httpx2's errors into this package's."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise APIConnectionError(f"no connection in time to {error.request.url}", request=error.request) from error
    except httpx2.TimeoutException as error:
        raise APITimeoutError(f"no answer in time from {error.request.url}", request=error.request) from error
    except httpx2.SSEError as error:
        raise APIResponseError(f"not a stream of events from {error.request.url}: {error}") from error
    except httpx2.RequestError as error:
        raise APIConnectionError(f"no answer from {error.request.url}: {error}", request=error.request) from error
