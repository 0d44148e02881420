"""Map errors to HTTP, in one table, in OpenAI's shape."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from lookonce_cache import StoreUnavailableError
from lookonce_server import errors
from lookonce_server.http.schemas.field_names import field_of, furthest, sendable, shown
from lookonce_server.logs import current_request

_log = logging.getLogger(__name__)


class _Mapping(NamedTuple):
    status: int
    type: str
    code: str | None


_TABLE: dict[type[Exception], _Mapping] = {
    errors.ModelNotFoundError: _Mapping(404, "invalid_request_error", "model_not_found"),
    errors.UnsupportedMediaTypeError: _Mapping(415, "invalid_request_error", "unsupported_media_type"),
    errors.InvalidRequestError: _Mapping(400, "invalid_request_error", None),
    errors.ContextNotFoundError: _Mapping(404, "invalid_request_error", "context_not_found"),
    errors.FileNotKnownError: _Mapping(404, "invalid_request_error", "file_not_found"),
    errors.ResponseNotFoundError: _Mapping(404, "invalid_request_error", "response_not_found"),
    errors.InvalidKeyError: _Mapping(401, "invalid_request_error", "invalid_api_key"),
    errors.ForbiddenError: _Mapping(403, "invalid_request_error", None),
    errors.BodyTimeoutError: _Mapping(408, "invalid_request_error", "request_timeout"),
    errors.BodyTooLargeError: _Mapping(413, "invalid_request_error", "request_too_large"),
    errors.InvalidHttpError: _Mapping(400, "invalid_request_error", "invalid_http"),
    errors.HeadersTooLargeError: _Mapping(431, "invalid_request_error", "headers_too_large"),
    errors.HeadersTimeoutError: _Mapping(408, "invalid_request_error", "request_timeout"),
    errors.TooManyConnectionsError: _Mapping(503, "server_error", "too_many_connections"),
    errors.OverloadedError: _Mapping(429, "rate_limit_error", "overloaded"),
    errors.RateLimitError: _Mapping(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.ConcurrencyLimitError: _Mapping(429, "rate_limit_error", "concurrency_limit_exceeded"),
    errors.ShuttingDownError: _Mapping(503, "server_error", "shutting_down"),
    StoreUnavailableError: _Mapping(503, "server_error", "store_unavailable"),
    errors.ContextNotKeptError: _Mapping(503, "server_error", "context_not_kept"),
    errors.ContextLostError: _Mapping(503, "server_error", "context_lost"),
    errors.EngineEndedError: _Mapping(503, "server_error", "engine_ended"),
    errors.EngineError: _Mapping(500, "server_error", "engine_error"),
    errors.ServerError: _Mapping(500, "server_error", None),
}
_FILE_METHODS = {"GET", "HEAD"}  # of mounted files, which have no route
_INTERNAL = _Mapping(500, "server_error", "internal_error")
# Messages for clients, of errors whose own text is for operators: it may name hosts.
_PUBLIC_MESSAGES: dict[str | None, str] = {
    "internal_error": "The server failed.",
    "store_unavailable": "The store of contexts does not answer. Send the image itself, or try again.",
}


def install(app: FastAPI) -> None:
    """Answer all errors of an app in OpenAI's shape."""
    for kind in _TABLE:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    return _mapping(error).status


def body_of(error: Exception) -> dict[str, Any]:
    """Return an error in OpenAI's shape.

    The caller logs an error if its text is not for clients.
    """
    mapping = _mapping(error)
    message = _PUBLIC_MESSAGES.get(mapping.code, str(error))
    code = getattr(error, "code", None) or mapping.code
    return _body(message, mapping.type, getattr(error, "param", None), code)


def response_to(error: Exception) -> JSONResponse:
    """Return the response to an error."""
    return _response(body_of(error), status_of(error), _headers(error))


def unknown(request: Request, error: Exception) -> JSONResponse:
    """Log an unexpected error and return its response."""
    _log.error("%s %s failed", request.method, _route(), exc_info=error)
    return response_to(error)


def _mapping(error: Exception) -> _Mapping:
    return next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), _INTERNAL)


def _body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": sendable(message), "type": kind, "param": param and sendable(param), "code": code}}


def _response(body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    if facts := current_request.get():
        facts.error = body["error"]["code"]
    return JSONResponse(body, status, headers)


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.InvalidKeyError):
        return {"www-authenticate": "Bearer"}
    return {"retry-after": str(getattr(error, "retry_after", 1))} if status_of(error) in (429, 503) else {}


def _route() -> str | None:
    """Return the request's route, without the client's values."""
    facts = current_request.get()
    return facts.route if facts else None


async def _known(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, StoreUnavailableError):
        _log.warning("%s %s: %s", request.method, _route(), error)
    return response_to(error)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    # Not from `request.url`, which has the header Host in it.
    message = f"{request.method} {request.scope['path']}: {error.detail}."
    headers = {"allow": _allowed(request)} if error.status_code == 405 else error.headers
    return _response(_body(message, "invalid_request_error", None, None), error.status_code, headers)


def _allowed(request: Request) -> str:
    """Return the methods of all routes with the request's path.

    Starlette names those of the first route alone.
    """
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    path = getattr(next(matching, None), "path", None)
    same_path = [route for route in request.app.routes if getattr(route, "path", None) == path]
    methods = {method for route in same_path for method in getattr(route, "methods", None) or ()}
    return ", ".join(sorted(methods or _FILE_METHODS))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Return the error about the field that helps most, with its value."""
    assert isinstance(error, RequestValidationError)
    worst = furthest(error.errors())
    param = field_of(worst, error.body)
    if worst["type"] == "extra_forbidden":
        message = f"{param} is not supported by this server."
    else:
        message = f"{param or 'The body'}: {worst['msg']} (given: {shown(worst.get('input'))})."
    return _response(_body(message, "invalid_request_error", param, None), 400)
