"""Read and validate JSON bodies, large ones off the event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from lookonce_server.errors import UnsupportedMediaTypeError
from lookonce_server.http.bodies.json_text import parse_json
from lookonce_server.http.schemas.field_names import furthest

FORM, JSON = "multipart/form-data", "application/json"
_LARGE = 64 * 1024  # bytes that take longer to parse than a switch to a thread
# Parsing holds Python's lock, so more threads would only hold more copies of bodies at once.
_THREADS = 2

M = TypeVar("M", bound=BaseModel)


class JsonRoute(APIRoute):
    """Read the parameter `body` of a route with `read_model`.

    FastAPI itself would read it on the event loop, however large it is, and report every error in it. It takes the
    parsed model as it is.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handle = super().get_route_handler()
        model = get_type_hints(self.endpoint).get("body")
        if model is None:
            return handle

        async def read(request: Request) -> Response:
            return await handle(_ReadRequest(request, await read_model(request, model)))

        return read


class _ReadRequest(Request):
    """A request with its body parsed."""

    def __init__(self, request: Request, model: BaseModel) -> None:
        super().__init__(request.scope, request.receive)
        self._model = model

    async def body(self) -> bytes:
        """Return an empty object, which FastAPI takes for a body."""
        return b"{}"

    async def json(self) -> BaseModel:
        """Return the parsed body."""
        return self._model


async def read_model(request: Request, model: type[M], *, strict: bool | None = None) -> M:
    """Read a request's body.

    Args:
        request: its body must be unread.
        model: of the body.
        strict: whether only JSON's own types are accepted; None: as the model says.

    Raises:
        UnsupportedMediaTypeError: its headers say that it is not JSON.
        InvalidRequestError: it is no JSON, or too large to parse.
        RequestValidationError: a field is missing, unknown or wrong.
        ClientDisconnect: the client has left.
    """
    read_media_type(request, JSON)
    body = await request.body()
    read = partial(_read, body, model, strict)
    return read() if len(body) < _LARGE else await asyncio.get_running_loop().run_in_executor(_threads(), read)


def validated(model: type[M], value: Any, *, strict: bool | None = None) -> M:
    """Return the model of a value.

    Raises:
        RequestValidationError: the value is wrong; it has the one error that helps.
    """
    try:
        return model.model_validate(value, strict=strict)
    except ValidationError as error:
        worst = furthest(error.errors(include_url=False, include_context=False))
        raise RequestValidationError([{**worst, "loc": ("body", *worst["loc"])}], body=value) from None


def read_media_type(request: Request, *accepted: str) -> str:
    """Return the media type of a request's body; types in "+json" are JSON.

    The header is required. A browser sends none of these types but forms for a foreign web page without a preflight
    request, so that the check of the origin is not the only protection.

    Args:
        request: its body may be unread.
        accepted: `JSON`, `FORM` or both.

    Raises:
        UnsupportedMediaTypeError: the body is compressed or of another type, or the header is missing.
    """
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            f"content-encoding: {encoding[:80]!r} is not supported; send the body uncompressed, without the header.",
            param="content-encoding",
        )
    header = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    media_type = JSON if header.startswith("application/") and header.endswith("+json") else header
    if media_type not in accepted:
        value = repr(header[:80]) if header else "the header is missing"
        raise UnsupportedMediaTypeError(
            f"content-type: {value}; accepted here: {' and '.join(accepted)}.", param="content-type"
        )
    return media_type


def _read(body: bytes, model: type[M], strict: bool | None) -> M:
    return validated(model, parse_json(body), strict=strict)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="json")
