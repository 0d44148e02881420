"""Write the OpenAPI document, without FastAPI's untrue additions."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_NEVER_SENT = "422"  # FastAPI's own answer to a wrong request; ours is a 400 in OpenAI's shape
_ITS_SCHEMAS = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI, *, wants_keys: bool, root_path: str) -> None:
    """Make an app serve the OpenAPI document.

    Args:
        app: with all of its routes.
        wants_keys: whether routes below `/v1` want an API key.
        root_path: below which a proxy serves them; "": none.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, wants_keys=wants_keys)
            if root_path:
                app.openapi_schema["servers"] = [{"url": root_path}]
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change it


def _document(app: FastAPI, *, wants_keys: bool) -> dict[str, Any]:
    document = get_openapi(title=app.title, summary=app.summary, version=app.version, routes=app.routes)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop(_NEVER_SENT, None)
            if wants_keys and path.startswith("/v1/"):
                operation["security"] = [{"key": []}]
    components = document.setdefault("components", {})
    for name in _ITS_SCHEMAS:
        components.get("schemas", {}).pop(name, None)
    if wants_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
