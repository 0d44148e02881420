"""The server's log: lines for people or one JSON object a line, each with the id of the request it was written for.

No line has an image, a prompt, an answer or a key. So what libraries tell beneath a warning stays out, and so do the
texts of errors that may quote what was asked: of those the log has the kind, and where it was.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, Literal

_OURS = ("lookonce_server", "lookonce_cache", "lookonce_pruning")
_TELLING = (OSError, RuntimeError, MemoryError, AssertionError)  # whose texts quote no client: of a machine, of ours


@dataclass(slots=True)
class RequestFacts:
    """What the log's line of one request tells. Each part of the server fills in what it knows.

    Attributes:
        request_id: as its answer has it.
        tenant: None until its key was looked at.
        route: the path's template: never what a client put into it.
        status: that was sent, or came to be: 499 where the client left, an error's own where a stream ended in one.
        error: the code of the error it was answered with.
        cache: of a question: how it was answered.
        prompt_tokens: that each of its answers stands on.
        computed_tokens: prompt tokens run through the model for it, by all of its answers.
        saved_tokens: that full passes would have run besides.
        generated_tokens: of all of its answers.
        first_token_seconds: until the first token of any.
        seconds: the whole.
    """

    request_id: str
    method: str
    route: str | None = None
    tenant: str | None = None
    status: int | None = None
    error: str | None = None
    cache: str | None = None
    prompt_tokens: int | None = None
    computed_tokens: int | None = None
    saved_tokens: int | None = None
    generated_tokens: int | None = None
    first_token_seconds: float | None = None
    seconds: float | None = None


current_request: ContextVar[RequestFacts | None] = ContextVar("current_request", default=None)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send the log to stderr.

    Args:
        level: how much of our own is logged: "debug", "info", ...
        form: lines for people, or JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_with_request)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])  # nothing, where a log is kept already
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(max(logging.INFO, logging.getLevelName(level.upper())))


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """One line; a request's facts and id as key=value."""
        told = _facts(record) or _id(record)
        return " ".join([super().formatMessage(record), *(f"{k}={v}" for k, v in told.items() if v is not None)])

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """See `_trace`."""
        return "\n".join(_trace(ei[1]))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        whole = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_facts(record) or _id(record)),
        }
        if record.exc_info and record.exc_info[1] is not None:
            whole["exception"] = "\n".join(_trace(record.exc_info[1]))
        return json.dumps(whole, ensure_ascii=True)


def _with_request(record: logging.LogRecord) -> bool:
    record.request = current_request.get()
    return True


def _id(record: logging.LogRecord) -> dict[str, Any]:
    facts: RequestFacts | None = getattr(record, "request", None)
    return {"request_id": facts.request_id} if facts else {}


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts: RequestFacts | None = getattr(record, "facts", None)
    return asdict(facts) if facts else {}


def _trace(error: BaseException | None) -> Iterator[str]:
    """An error's frames and kind, those that it came of first; its text only where that quotes no client."""
    if error is None:
        return
    yield from _trace(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
    for one in getattr(error, "exceptions", ()):
        yield from _trace(one)
    yield "Traceback (most recent call last):"
    yield from "".join(traceback.format_list(traceback.extract_tb(error.__traceback__))).splitlines()
    text = f": {error}" if isinstance(error, _TELLING) else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{text}"
