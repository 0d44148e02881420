"""What a request's headers say of its body."""

from fastapi import Request

from lookonce_server.errors import UnsupportedMediaTypeError

FORM, JSON = "multipart/form-data", "application/json"


def read_media_type(request: Request, *accepted: str) -> str:
    """The one of the accepted kinds that a request's body is; kinds that end in "+json" are JSON.

    The kind has to be told. What a browser sends for a foreign web page without asking first is never of these kinds
    but for forms, so that the check of its origin is not all that stands between.

    Args:
        request: nothing of its body needs to be read.
        accepted: `JSON`, `FORM` or both.

    Raises:
        UnsupportedMediaTypeError: it is compressed, of another kind, or does not say.
    """
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError(
            f"content-encoding: {encoding[:80]!r}; bodies are read as they are: send this one uncompressed, without"
            " the header.",
            param="content-encoding",
        )
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    kind = JSON if given.startswith("application/") and given.endswith("+json") else given
    if kind not in accepted:
        told = repr(given[:80]) if given else "the header is missing"
        raise UnsupportedMediaTypeError(
            f"content-type: {told}; accepted here: {' and '.join(accepted)}.", param="content-type"
        )
    return kind
