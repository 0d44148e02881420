"""Authenticate requests and limit their rate, before their bodies are read."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookonce_server.auth.rate_limit import RateLimiter, Slot, TenantBucket
from lookonce_server.auth.tenants import TenantDirectory
from lookonce_server.errors import InvalidKeyError, OverloadedError, ShuttingDownError
from lookonce_server.http.middleware.reject import reject
from lookonce_server.lifecycle import Lifecycle
from lookonce_server.logs import current_request

_GUARDED = "/v1/"


class AuthMiddleware:
    """Reject requests without a known key or beyond the limits, below `/v1`.

    Routes find the tenant in the scope's state. A request holds its slot until its answer, or its stream, has ended.
    The slot is free before the answer's last piece is sent, for a client that sends its next request at once.

    Args:
        app: the wrapped app.
        access: the tenants and their keys.
        limiter: the limits of all tenants.
        lifecycle: the server's lifecycle.
    """

    def __init__(self, app: ASGIApp, *, access: TenantDirectory, limiter: RateLimiter, lifecycle: Lifecycle) -> None:
        self._app = app
        self._access = access
        self._limiter = limiter
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        try:
            tenant = self._access.tenant(Headers(scope=scope).get("authorization"))
        except InvalidKeyError as error:
            await reject(error, scope, receive, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        if facts := current_request.get():
            facts.tenant = tenant
        send = _with_rate_limit(self._limiter.bucket(tenant), send)
        slot = Slot(self._limiter, tenant)
        try:
            self._lifecycle.check()
            slot.acquire()
        except (OverloadedError, ShuttingDownError) as error:
            await reject(error, scope, receive, send)
            return

        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                slot.release()
            await send(message)

        try:
            await self._app(scope, receive, send_and_release)
        finally:
            slot.release()


def _with_rate_limit(bucket: TenantBucket, send: Send) -> Send:
    """Return a `send` that adds the tenant's rate limit to the headers."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(bucket.headers())
        await send(message)

    return send_with_headers
