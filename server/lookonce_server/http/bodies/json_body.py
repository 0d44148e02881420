"""Bodies of JSON: read and checked within bounds, and off the event loop where they are large."""

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

from lookonce_server.http.bodies.json_text import parse_json
from lookonce_server.http.bodies.media_type import JSON, read_media_type
from lookonce_server.http.schemas.field_names import furthest

_LARGE = 64 * 1024  # bytes that take longer to read than a hop to a thread does
# Reading holds Python's lock anyway, so more threads would only hold more bodies' copies at once.
_THREADS = 2

M = TypeVar("M", bound=BaseModel)


class JsonRoute(APIRoute):
    """A route whose parameter `body` is read by `read_model`.

    FastAPI itself would read it on the event loop, however large it is, and name all that is wrong with it. It is given
    what was read, which it takes as it is.
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
    """A request whose body was read already."""

    def __init__(self, request: Request, model: BaseModel) -> None:
        super().__init__(request.scope, request.receive)
        self._model = model

    async def body(self) -> bytes:
        """That there is one."""
        return b"{}"

    async def json(self) -> BaseModel:
        """What was read."""
        return self._model


async def read_model(request: Request, model: type[M], *, strict: bool | None = None) -> M:
    """Read a request's body.

    Args:
        request: nothing of its body has been read.
        model: what it must be.
        strict: whether JSON's own types are wanted; None: as the model says.

    Raises:
        UnsupportedMediaTypeError: its headers say that it is not JSON.
        InvalidRequestError: it is no JSON, or more than is read.
        RequestValidationError: a field is missing, unknown or wrong.
        ClientDisconnect: the client has left.
    """
    read_media_type(request, JSON)
    body = await request.body()
    read = partial(_read, body, model, strict)
    return read() if len(body) < _LARGE else await asyncio.get_running_loop().run_in_executor(_threads(), read)


def validated(model: type[M], given: Any, *, strict: bool | None = None) -> M:
    """The model of what was given; raises RequestValidationError with the one error that helps."""
    try:
        return model.model_validate(given, strict=strict)
    except ValidationError as error:
        worst = furthest(error.errors(include_url=False, include_context=False))
        raise RequestValidationError([{**worst, "loc": ("body", *worst["loc"])}], body=given) from None


def _read(body: bytes, model: type[M], strict: bool | None) -> M:
    return validated(model, parse_json(body), strict=strict)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="json")
