"""Log each request, and give each answer an id and safe headers."""

import asyncio
import logging
import re
import time
import uuid

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookonce_server.http import errors
from lookonce_server.http.recent import RecentQuestions
from lookonce_server.logs import RequestFacts, current_request
from lookonce_server.metrics import REFUSALS, Metrics
from lookonce_server.tracing.spans import trace_id

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_PROBES = {"/health", "/ready", "/metrics", "/monitor/data.json"}  # asked for again and again
_POLICY = "default-src 'none'; frame-ancestors 'none'"


class RequestLogMiddleware:
    """Log a line for each request, and set headers that the route has not set.

    Args:
        app: the wrapped app.
        metrics: counts the rejected requests.
        recent: remembers the questions.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, recent: RecentQuestions) -> None:
        self._app = app
        self._metrics = metrics
        self._recent = recent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.monotonic()
        header = Headers(scope=scope).get("x-request-id", "")
        request_id = header if _ID.fullmatch(header) else f"req_{uuid.uuid4().hex}"
        facts = RequestFacts(request_id, scope["method"], route=_route(scope), trace_id=trace_id())
        current_request.set(facts)
        sending = _Sending(scope, facts, send)
        try:
            await self._answer(sending, scope, receive)
        except asyncio.CancelledError:  # the server shuts down
            sending.outcome = 503
            raise
        finally:
            facts.status = facts.status or sending.outcome
            facts.seconds = round(time.monotonic() - started_at, 6)
            _log.log(_level(facts), "request", extra={"facts": facts})
            self._recent.add(facts)
            if facts.error in REFUSALS:
                self._metrics.refused.labels(facts.error).inc()

    async def _answer(self, sending: "_Sending", scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            pass  # while its body was read
        except Exception as error:
            if sending.started:  # it is too late for an answer: uvicorn closes the connection
                sending.outcome = 500
                raise
            await errors.unknown(Request(scope), error)(scope, receive, sending)


class _Sending:
    """Send an answer with its headers, and note its outcome."""

    def __init__(self, scope: Scope, facts: RequestFacts, send: Send) -> None:
        self.started = False
        self.outcome = 499  # until the whole is sent
        self._path = scope["path"]
        self._expects = "expect" in Headers(scope=scope)
        self._facts = facts
        self._send = send
        self._status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._status = message["status"]
            self._complete(MutableHeaders(scope=message))
        elif not message.get("more_body", False):
            self.outcome = self._status
        await self._send(message)

    def _complete(self, headers: MutableHeaders) -> None:
        headers["x-request-id"] = self._facts.request_id
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("content-security-policy", _POLICY)
        if self._expects and self._status >= 400:  # the body may come or not: the next bytes are ambiguous
            headers["connection"] = "close"
        if self._path.startswith("/v1/"):
            headers.setdefault("cache-control", "no-store")


def _level(facts: RequestFacts) -> int:
    """Return the level of a request's line; probes that succeed are routine."""
    is_routine = facts.route in _PROBES and facts.status is not None and facts.status < 400
    return logging.DEBUG if is_routine else logging.INFO


def _route(scope: Scope) -> str | None:
    """Return the path's template, of a route with the method if there is one."""
    matches = [(route.matches(scope)[0], getattr(route, "path", None)) for route in scope["app"].routes]
    paths = [path for kind in (Match.FULL, Match.PARTIAL) for match, path in matches if match is kind]
    return paths[0] if paths else None
