"""Trace each request below `/v1`, by the semantic conventions of OpenTelemetry."""

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lookonce_server.logs import RequestFacts, current_request
from lookonce_server.tracing.spans import Attributes, current_span

if TYPE_CHECKING:
    from lookonce_server.tracing.otlp import OtlpSpan, Telemetry

_TRACED = "/v1/"
_QUESTIONS = {"/v1/chat/completions", "/v1/responses"}  # which the conventions call "chat", both
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
_COUNTS = {
    "gen_ai.usage.input_tokens": "prompt_tokens",
    "gen_ai.usage.output_tokens": "generated_tokens",
    "lookonce.cache": "cache",
    "lookonce.images": "images",
    "lookonce.hits": "hits",
    "lookonce.computed_tokens": "computed_tokens",
    "lookonce.saved_tokens": "saved_tokens",
    "lookonce.time_to_first_token": "first_token_seconds",
}


class TraceMiddleware:
    """Make a span of each request, and the metrics of each question.

    All that they have comes from the request's facts, and from the parts of the server that annotate them: nothing
    that a client sent.

    Args:
        app: the wrapped app, which knows a request's facts at its end.
        telemetry: sends them.
    """

    def __init__(self, app: ASGIApp, *, telemetry: "Telemetry") -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_TRACED):
            await self._app(scope, receive, send)
            return
        span = self._telemetry.start_request("request", Headers(scope=scope))
        token = current_span.set(span)
        try:
            await self._app(scope, receive, send)
        finally:
            current_span.reset(token)
            if facts := current_request.get():
                self._end(span, facts)
            span.end()

    def _end(self, span: "OtlpSpan", facts: RequestFacts) -> None:
        """Say of a span, and in metrics, how its request went."""
        status = facts.status or 500
        span.annotate({"http.request.method": _method(facts), "http.response.status_code": status})
        if facts.route is not None:
            span.annotate({"http.route": facts.route})
        if status >= 500:
            span.fail()
        error: Attributes = {"error.type": _error_type(facts, status)} if status >= 400 else {}
        span.annotate(error)
        if facts.method == "POST" and facts.route in _QUESTIONS:
            self._end_question(span, facts, error)
        else:
            span.rename(f"{_method(facts)} {facts.route or ''}".strip())

    def _end_question(self, span: "OtlpSpan", facts: RequestFacts, error: Attributes) -> None:
        model: Attributes = {"gen_ai.response.model": self._telemetry.model} if facts.prompt_tokens is not None else {}
        span.annotate({"gen_ai.operation.name": "chat", "gen_ai.provider.name": "lookonce", **model})
        values = {name: getattr(facts, field) for name, field in _COUNTS.items()}
        span.annotate({name: value for name, value in values.items() if value is not None})
        if span.attributes.get("gen_ai.request.stream") and facts.first_token_seconds is not None:
            span.annotate({"gen_ai.response.time_to_first_chunk": facts.first_token_seconds})
        is_known = "gen_ai.request.model" in span.attributes
        span.rename(f"chat {self._telemetry.model}" if is_known else "chat")
        names = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model")
        labels = {name: str(span.attributes[name]) for name in names if name in span.attributes}
        rate = span.attributes.get("lookonce.tokens_per_second")
        self._telemetry.record(
            {**labels, **error, "lookonce.cache": facts.cache or "none"},
            seconds=facts.seconds or 0.0,
            first_token=None if error else facts.first_token_seconds,
            token=1 / rate if isinstance(rate, float) and not error else None,
        )


def _method(facts: RequestFacts) -> str:
    """Return a request's method, or what the conventions call one that nobody knows."""
    return facts.method if facts.method in _METHODS else "_OTHER"


def _error_type(facts: RequestFacts, status: int) -> str:
    """Name an error by its code, or by its status: there are few of both."""
    return "client_disconnected" if status == 499 else facts.error or str(status)
