"""Read requests with an image, as JSON or as a form."""

from typing import Any, Generic, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel

from lookonce_server.errors import InvalidImageError
from lookonce_server.http.bodies.form import read_form
from lookonce_server.http.bodies.json_body import FORM, JSON, read_media_type, read_model, validated
from lookonce_server.http.image_reader import ImageReader
from lookonce_server.http.schemas.contexts import ContextRequest, ImageUrlRequest
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes, check_size

_FILE = "image"

F = TypeVar("F", bound=BaseModel)
J = TypeVar("J", ImageUrlRequest, ContextRequest)


class ImageRequest(NamedTuple, Generic[F, J]):
    """A parsed request and its image."""

    image: ImageBytes
    fields: F | J


async def read_image_request(
    request: Request, images: Images, reader: ImageReader, form: type[F], body: type[J]
) -> ImageRequest[F, J]:
    """Read a request that brings an image.

    Args:
        request: its body must be unread.
        images: have the limits.
        reader: reads the image that JSON names.
        form: the fields of a form beside its file `image`.
        body: the JSON.

    Raises:
        RequestValidationError: a field is missing, unknown or wrong.
        UnsupportedMediaTypeError: its headers say that it is neither JSON nor a form.
        InvalidRequestError: it is no JSON, or a form that cannot be read.
        InvalidImageError: the image cannot be read.
        FileNotKnownError: there is no such file.
    """
    if read_media_type(request, JSON, FORM) == FORM:
        data, _, fields = await read_form(request, _FILE, images.limits.max_bytes)
        check_size(data, images.image_media, _FILE)
        return ImageRequest(ImageBytes(data, _FILE), validated(form, fields, strict=False))  # parsed from texts
    parsed = await read_model(request, body, strict=True)
    field = parsed.image_field(images.video_limits.max_frames)
    source = await reader.read(field)
    if not isinstance(source, ImageBytes):
        noun = field.param.removesuffix("_url")
        raise InvalidImageError(
            f"{field.param}: the {noun} itself is needed here, not the id of its context.", param=field.param
        )
    return ImageRequest(source, parsed)


def documented_body(form: type[BaseModel], body: type[BaseModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that calls `read_image_request`."""
    fields = form.model_json_schema()
    properties = {name: _without_null(schema) for name, schema in fields.get("properties", {}).items()}
    fields["properties"] = {_FILE: {"type": "string", "format": "binary"}, **properties}
    fields["required"] = [_FILE]
    fields["additionalProperties"] = False  # where JSON may have null, a form has nothing to say that with
    content = {JSON: {"schema": body.model_json_schema()}, FORM: {"schema": fields}}
    return {"requestBody": {"required": True, "content": content}}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a form's field: it has no null, but may be left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return rest | kinds[0] if kinds else schema
