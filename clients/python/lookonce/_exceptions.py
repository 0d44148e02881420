"""Define every error that the client raises.

* LookonceError
  + ImageSourceError         (also a ValueError) the image cannot be read or named
  + APIConnectionError       no answer came: refused, unreachable, cut off
    - APITimeoutError        ... within the time allowed, though the server was reached
  + APIResponseError         an answer came that is not in the server's protocol
  + APIStatusError           the server answered with an error object
    - BadRequestError        400, 413, 415, 422
    - AuthenticationError    401
    - PermissionDeniedError  403
    - NotFoundError          404
      . ContextNotFoundError ... with the code `context_not_found`
    - RateLimitError         429
      . OverloadedError      ... with the code `overloaded`
    - ServerError            500 and above
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2


class LookonceError(Exception):
    """The base class of every error of this package."""


class ImageSourceError(LookonceError, ValueError):
    """The image cannot be read, or is neither a path, a URL nor a context id."""


class APIConnectionError(LookonceError):
    """No answer came: the connection was refused, unreachable or cut off."""

    def __init__(self, message: str, *, request: httpx2.Request) -> None:
        super().__init__(message)
        self.request = request


class APITimeoutError(APIConnectionError):
    """The server was reached, and did not answer within the timeout."""


class APIResponseError(LookonceError):
    """The answer is not in the protocol of a lookonce server."""


class APIStatusError(LookonceError):
    """The server answered with an error.

    Attributes:
        message: what went wrong, in the server's words.
        status_code: the HTTP status; that of the stream (200) if the error came inside one.
        type: the server's class of error, e.g. `invalid_request_error`.
        param: the request's field at fault, if there is one.
        code: the machine-readable name of the error, e.g. `context_not_found`.
        retry_after: seconds after which the server wants to be asked again, if it said so (429, 503).
        request_id: the server's id of the request, if it gave one.
        response: the HTTP response; `response.request` is the request.
    """

    def __init__(self, response: httpx2.Response, error: Mapping[str, Any]) -> None:
        self.message = str(error.get("message") or f"the server answered {response.status_code}")
        self.status_code = response.status_code
        self.type: str | None = error.get("type")
        self.param: str | None = error.get("param")
        self.code: str | None = error.get("code")
        self.retry_after = _seconds(response.headers.get("retry-after", ""))
        self.request_id: str | None = response.headers.get("x-request-id")
        self.response = response
        super().__init__(self.message)


class BadRequestError(APIStatusError):
    """The request is malformed, or asks for something that the server does not do."""


class AuthenticationError(APIStatusError):
    """The API key is missing or wrong."""


class PermissionDeniedError(APIStatusError):
    """The API key is not allowed to do this."""


class NotFoundError(APIStatusError):
    """There is no such route, model or context."""


class ContextNotFoundError(NotFoundError):
    """The context expired, was evicted or deleted, or is another tenant's or model's."""


class RateLimitError(APIStatusError):
    """The caller asked too often, or too much at once; ask again after `retry_after`."""


class OverloadedError(RateLimitError):
    """The server is overloaded; ask again later."""


class ServerError(APIStatusError):
    """The server failed; the request itself may be fine."""


_BY_STATUS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: BadRequestError,
    415: BadRequestError,
    422: BadRequestError,
    429: RateLimitError,
}
_BY_CODE: Mapping[str, type[APIStatusError]] = {
    "context_not_found": ContextNotFoundError,
    "overloaded": OverloadedError,
}


def status_error(response: httpx2.Response) -> APIStatusError:
    """Build the error of a response that was read and is not a success."""
    return _error_class(response.status_code, error := _error_object(response))(response, error)


def stream_error(response: httpx2.Response, error: Mapping[str, Any]) -> APIStatusError:
    """Build the error of an error event in a stream."""
    return _error_class(500, error)(response, error)


def _error_class(status: int, error: Mapping[str, Any]) -> type[APIStatusError]:
    default = _BY_STATUS.get(status, ServerError if status >= 500 else APIStatusError)
    return _BY_CODE.get(str(error.get("code")), default)


def _error_object(response: httpx2.Response) -> Mapping[str, Any]:
    """Return the body's error object, or quote a body without one."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = None
    if isinstance(error, dict):
        return error
    start = " ".join(response.text.split())[:200]
    return {"message": f"{response.status_code} {response.reason_phrase} from {response.url}: {start or 'empty body'}"}


def _seconds(header: str) -> int | None:
    """Parse a Retry-After header in seconds; None for a date."""
    return int(header) if re.fullmatch(r"[0-9]{1,9}", header) else None
