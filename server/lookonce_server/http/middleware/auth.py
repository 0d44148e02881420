"""Who asks is known, and whether there is room, before anything of a request's body is read."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookonce_server.auth.rate_limit import RateLimiter, Slot, TenantBucket
from lookonce_server.auth.tenants import TenantDirectory
from lookonce_server.errors import InvalidKeyError, OverloadedError, ShuttingDownError
from lookonce_server.http.middleware.reject import refuse
from lookonce_server.lifecycle import Lifecycle
from lookonce_server.logs import current_request

_GUARDED = "/v1/"


class AuthMiddleware:
    """ASGI middleware that lets in whom `access` knows, as far as there is room. Routes outside `/v1` are open.

    What is behind it finds the tenant in the scope's state. A request keeps its place until its answer has ended, a
    stream's too; it is free again before the answer's last piece goes out, for a client that asks on at once.

    Args:
        app: what it wraps.
        access: knows the keys.
        turnstile: knows how many there may be.
        phase: of the server's life.
    """

    def __init__(self, app: ASGIApp, *, access: TenantDirectory, turnstile: RateLimiter, phase: Lifecycle) -> None:
        self._app = app
        self._access = access
        self._turnstile = turnstile
        self._phase = phase

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        try:
            tenant = self._access.tenant(Headers(scope=scope).get("authorization"))
        except InvalidKeyError as error:
            await refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        if facts := current_request.get():
            facts.tenant = tenant
        send = _telling(self._turnstile.bucket(tenant), send)
        place = Slot(self._turnstile, tenant)
        try:
            self._phase.check()
            place.acquire()
        except (OverloadedError, ShuttingDownError) as error:
            await refuse(error, scope, receive, send)
            return

        async def ending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                place.release()
            await send(message)

        try:
            await self._app(scope, receive, ending)
        finally:
            place.release()


def _telling(lane: TenantBucket, send: Send) -> Send:
    """`send`, with the tenant's rate limit in the headers."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(lane.headers())
        await send(message)

    return told
