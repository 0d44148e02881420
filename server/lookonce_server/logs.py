"""Write the server's log, as text or JSON, with the request's id on each line.

No line has an image, a prompt, an answer or a key. So libraries log warnings at least, and errors whose text may quote
a request are logged by their type and traceback alone.
"""

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, Literal

_OURS = ("lookonce_server", "lookonce_cache", "lookonce_pruning")
_SAFE_ERRORS = (OSError, RuntimeError, MemoryError, AssertionError)  # their texts quote no request


@dataclass(slots=True)
class RequestFacts:
    """The facts in a request's line of the log; each part of the server adds its own.

    Attributes:
        request_id: as in the answer's header.
        tenant: None until the key is checked.
        route: the path's template, never the path itself.
        status: of the answer; 499 if the client left, an error's own if a stream ended in one.
        error: the code of the error in the answer.
        cache: how a question was answered.
        images: different images of a question.
        hits: images whose contexts were there.
        prompt_tokens: tokens that each answer is based on.
        computed_tokens: prompt tokens run through the model, by all answers.
        saved_tokens: prompt tokens that full passes would have run besides.
        generated_tokens: tokens of all answers.
        first_token_seconds: until the first token of any answer.
        seconds: until the end.
        trace_id: of the request's trace, if it is traced.
    """

    request_id: str
    method: str
    route: str | None = None
    tenant: str | None = None
    status: int | None = None
    error: str | None = None
    cache: str | None = None
    images: int | None = None
    hits: int | None = None
    prompt_tokens: int | None = None
    computed_tokens: int | None = None
    saved_tokens: int | None = None
    generated_tokens: int | None = None
    first_token_seconds: float | None = None
    seconds: float | None = None
    trace_id: str | None = None


_log = logging.getLogger(__name__)
current_request: ContextVar[RequestFacts | None] = ContextVar("current_request", default=None)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send the log to stderr; as JSON, so are warnings and what Python would write there itself.

    Args:
        level: of lookonce's own loggers: "debug", "info", ...
        form: text or JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_with_request)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])  # does nothing if the root logger has a handler
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    if form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = lambda _, error, __: _log_uncaught(error)
        threading.excepthook = lambda hook: _log_uncaught(hook.exc_value)
        sys.unraisablehook = lambda hook: _log_uncaught(hook.exc_value)


class TextFormatter(logging.Formatter):
    """Format records as text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Format one line, with a request's facts or id as key=value."""
        facts = _facts(record) or _id(record)
        return " ".join([super().formatMessage(record), *(f"{k}={v}" for k, v in facts.items() if v is not None)])

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """See `_trace`."""
        return "\n".join(_trace(ei[1]))


class JsonFormatter(logging.Formatter):
    """Format records as JSON, one object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_facts(record) or _id(record)),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "\n".join(_trace(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=True)


def _log_uncaught(error: BaseException | None) -> None:
    if isinstance(error, Exception):  # neither Ctrl-C nor an exit
        _log.error("an error that nothing has caught", exc_info=error)


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
    """Yield the traceback and type of an error, and its text if that is safe."""
    if error is None:
        return
    yield from _trace(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
    for part in getattr(error, "exceptions", ()):
        yield from _trace(part)
    yield "Traceback (most recent call last):"
    yield from "".join(traceback.format_list(traceback.extract_tb(error.__traceback__))).splitlines()
    text = f": {error}" if isinstance(error, _SAFE_ERRORS) else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{text}"
