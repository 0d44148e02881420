"""Who asks is known before anything of a request's body is read: without a key nobody makes the server work."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lookonce_server.access import Access
from lookonce_server.api.errors import response_to
from lookonce_server.errors import InvalidKeyError

_GUARDED = "/v1/"


class Gate:
    """ASGI middleware that lets in whom `access` knows, and answers 401 to others. Routes outside `/v1` are open.

    What is behind it finds the tenant in the scope's state.

    Args:
        app: what it wraps.
        access: knows the keys.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith(_GUARDED):
            try:
                tenant = self._access.tenant(Headers(scope=scope).get("authorization"))
            except InvalidKeyError as error:
                await response_to(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["tenant"] = tenant
        await self._app(scope, receive, send)
