"""Remove the root path and trailing slashes from request paths."""

from starlette.types import ASGIApp, Receive, Scope, Send


class PathMiddleware:
    """Remove the root path and a trailing slash from each request's path.

    So `/v1/models/` is the same route as `/v1/models`, with no redirect, which would name a host and a scheme that a
    proxy in front may have changed; and whether a proxy takes its prefix away or not, everything behind this sees the
    same path, and guards it alike.

    Args:
        app: the wrapped app.
        root_path: "" or a path that begins with a slash and does not end with one.
    """

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope["path"] = self._routed(scope["path"])
        await self._app(scope, receive, send)

    def _routed(self, path: str) -> str:
        if self._root_path and f"{path}/".startswith(f"{self._root_path}/"):
            path = path.removeprefix(self._root_path) or "/"
        return path if path == "/" else path.removesuffix("/")
