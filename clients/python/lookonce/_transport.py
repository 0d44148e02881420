"""Run flows: send their requests with httpx2, and convert its errors.

Both transports raise APIConnectionError if no answer comes, APIStatusError if the answer is an error, and
APIResponseError if it is not what the request expects.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from typing import Any, TypeVar

import httpx2

from ._exceptions import APIConnectionError, APIResponseError, APITimeoutError, LookonceError, status_error
from ._requests import Request
from ._server import Flow, Pause

_CONNECT_SECONDS = 10.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
T = TypeVar("T")


class Transport:
    """Hold a connection pool to one server; any number of threads may use it."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self._client = httpx2.Client(**_client_options(base_url, api_key, timeout))

    def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        with closing(flow):
            try:
                step = next(flow)
                while True:
                    try:
                        result = self._run_step(step)
                    except LookonceError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    @contextmanager
    def events(self, response: httpx2.Response) -> Iterator[Iterator[str]]:
        """Yield the data of each event of a response, which is closed at the end."""
        with closing(response), _connection_errors():
            yield (event.data for event in httpx2.EventSource(response))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _run_step(self, step: Request[Any] | Pause) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        with _connection_errors():
            response = self._client.send(_build(self._client, step), stream=True)
            if step.reply == "events" and response.is_success:
                return response
            with closing(response):
                response.read()
        return _read(step, response)


class AsyncTransport:
    """Do the same as `Transport`, for asyncio."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self._client = httpx2.AsyncClient(**_client_options(base_url, api_key, timeout))

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        with closing(flow):
            try:
                step = next(flow)
                while True:
                    try:
                        result = await self._run_step(step)
                    except LookonceError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    @asynccontextmanager
    async def events(self, response: httpx2.Response) -> AsyncIterator[AsyncIterator[str]]:
        """Yield the data of each event of a response, which is closed at the end."""
        async with aclosing(response), aclosing(_data(response)) as events:
            with _connection_errors():
                yield events

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _run_step(self, step: Request[Any] | Pause) -> Any:
        if isinstance(step, Pause):
            import asyncio

            return await asyncio.sleep(step.seconds)
        with _connection_errors():
            response = await self._client.send(_build(self._client, step), stream=True)
            if step.reply == "events" and response.is_success:
                return response
            async with aclosing(response):
                await response.aread()
        return _read(step, response)


async def _data(response: httpx2.Response) -> AsyncGenerator[str, None]:
    async for event in httpx2.EventSource(response):
        yield event.data


def _client_options(base_url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Return the arguments of an httpx2 client; loopback addresses need no proxy."""
    url = _server_url(base_url)
    return {
        "base_url": url,
        "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        "trust_env": url.host not in _LOOPBACK,
        # Reading the system's certificates takes longer than a question; plain HTTP needs none of them.
        "verify": url.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    }


def _server_url(base_url: str) -> httpx2.URL:
    """Check a server's address and strip the `/v1` that OpenAI's clients expect."""
    try:
        url = httpx2.URL(base_url.rstrip("/").removesuffix("/v1"))
    except httpx2.InvalidURL as error:
        raise ValueError(f"base_url is {base_url!r}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url is {base_url!r}; http://host:port or https://host:port is expected")
    return url


def _build(client: httpx2.Client | httpx2.AsyncClient, request: Request[Any]) -> httpx2.Request:
    """Build the request that httpx2 sends."""
    return client.build_request(request.method, request.path, params=request.query, json=request.body)


def _read(request: Request[Any], response: httpx2.Response) -> Any:
    """Return the body in the form that the request expects."""
    if not response.is_success:
        raise status_error(response)
    if request.reply == "bytes":
        return response.content
    try:
        return response.json()
    except ValueError as error:
        content_type = response.headers.get("content-type", "no content type")
        raise APIResponseError(
            f"the reply of {response.url} is not JSON ({content_type}); is this a lookonce server?"
        ) from error


@contextmanager
def _connection_errors() -> Iterator[None]:
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
