"""The shape of errors, and the statuses of each route."""

from typing import Any

from pydantic import BaseModel

_WHEN = {
    400: "The request is wrong; `param` names the field.",
    401: "The API key is missing or unknown.",
    403: "The caller may not do this.",
    404: "There is no such thing, or not any more.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the limit.",
    415: "The body is compressed, or neither JSON nor, where one is read, a form.",
    429: "Too many requests; `retry-after` says when to try again.",
    500: "The server failed; its log says why.",
    503: "For the moment this cannot be served; `retry-after` says when to try again.",
}

# One of a stream's.
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "contentMediaType": "application/json"}},
}


class ErrorDetail(BaseModel):
    """The details of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorDetail


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route with these statuses.

    The statuses of all routes below `/v1` are added.
    """
    everywhere = (401, 403, 408, 413, 429, 500, 503)
    return {status: {"description": _WHEN[status], "model": ErrorBody} for status in sorted({*everywhere, *statuses})}
