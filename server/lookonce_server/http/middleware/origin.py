"""Reject foreign Host and Origin headers.

A server without keys answers only this machine, and no server answers foreign web pages.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from lookonce_server.auth.tenants import is_loopback
from lookonce_server.errors import ForbiddenError
from lookonce_server.http.middleware.reject import reject

_GUARDED = "/v1/"
_EXPOSED = (
    "retry-after",
    "x-lookonce-cache",
    "x-lookonce-context",
    "x-lookonce-fallback",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
)


class OriginMiddleware:
    """Reject foreign Host headers, and below `/v1` foreign web pages.

    Args:
        app: the wrapped app.
        any_host: whether every Host is accepted, not only names of this machine. The Host is the only sign of a web
            page whose name was made to lead here (DNS rebinding).
        origins: allowed origins of web pages, beside the server's own.
    """

    def __init__(self, app: ASGIApp, *, any_host: bool, origins: tuple[str, ...]) -> None:
        self._any_host = any_host
        self._origins = origins
        self._app: ASGIApp = app
        if origins:
            methods = ("GET", "POST", "DELETE")
            self._app = CORSMiddleware(app, origins, methods, allow_headers=("*",), expose_headers=_EXPOSED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except ForbiddenError as error:
                await reject(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if not self._any_host and not is_loopback(_name(headers.get("host", ""))):
            raise ForbiddenError(
                "Without API keys this server answers only to names of its own machine, such as 127.0.0.1 or localhost."
                " The header Host has another name.",
                code="host_not_allowed",
            )
        if path.startswith(_GUARDED) and not self._is_allowed(headers):
            raise ForbiddenError(
                "Web pages of other origins may not ask this server; its operator can allow some by --allowed-origins.",
                code="origin_not_allowed",
            )

    def _is_allowed(self, headers: Headers) -> bool:
        """Return whether the client is no browser, or shows an allowed page."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin in self._origins:
            return True
        if site is not None:  # set by the browser: pages cannot
            return site in ("same-origin", "none")
        return origin is None or _authority(origin) == headers.get("host")


def _authority(origin: str) -> str | None:
    """Return the host and port of an Origin; None if it is no URL."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str:
    """Return a Host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
