"""Carries requests to the server, and turns what goes wrong on the way into this package's errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx2

from ._exceptions import APIConnectionError, APIResponseError, APITimeoutError, status_error
from ._protocol import Request

_CONNECT_SECONDS = 10.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Transport:
    """One connection pool to one server.

    Raises APIConnectionError when no answer comes, APIStatusError when the answer is an error, and APIResponseError
    when it is not JSON.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self._client = httpx2.Client(**client_settings(base_url, api_key, timeout))

    def send(self, request: Request) -> Any:
        """Send a request and return the JSON of its reply."""
        with connection_errors():
            response = self._client.request(request.method, request.path, params=request.query, json=request.body)
        if response.is_error:
            raise status_error(response)
        return json_body(response)

    def open(self, request: Request) -> httpx2.Response:
        """Send a request and return its reply once the head is there; the caller closes it."""
        with connection_errors():
            built = self._client.build_request(request.method, request.path, json=request.body)
            response = self._client.send(built, stream=True)
            if response.is_error:
                with closing(response):
                    response.read()
                raise status_error(response)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


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


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn httpx2's errors into this package's."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise APITimeoutError(f"no answer in time from {error.request.url}", request=error.request) from error
    except httpx2.SSEError as error:
        raise APIResponseError(f"not a stream of events from {error.request.url}: {error}") from error
    except httpx2.RequestError as error:
        raise APIConnectionError(f"no answer from {error.request.url}: {error}", request=error.request) from error


def json_body(response: httpx2.Response) -> Any:
    """The JSON of a reply."""
    try:
        return response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "no content type")
        raise APIResponseError(
            f"the reply of {response.url} is not JSON ({kind}); is this a lookonce server?"
        ) from error
