"""Read requests with an image, as JSON or as a form."""

from typing import Any, Generic, NamedTuple, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from lookonce_server.errors import InvalidImageError, InvalidRequestError
from lookonce_server.http.bodies.json_body import FORM, JSON, read_media_type, read_model, validated
from lookonce_server.http.bodies.json_text import check_leaves
from lookonce_server.http.schemas.contexts import ContextRequest, ImageUrlRequest
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes, check_size

_FILE = "image"
_MAX_FIELDS = 16  # more than any form has, so that an unknown field is rejected by its name
_MAX_FIELD_BYTES = 64 * 1024

F = TypeVar("F", bound=BaseModel)
J = TypeVar("J", ImageUrlRequest, ContextRequest)


class ImageRequest(NamedTuple, Generic[F, J]):
    """A parsed request and its image."""

    image: ImageBytes
    fields: F | J


async def read_image_request(request: Request, images: Images, form: type[F], body: type[J]) -> ImageRequest[F, J]:
    """Read a request that brings an image.

    Args:
        request: its body must be unread.
        images: reads the image's URL.
        form: the fields of a form beside its file `image`.
        body: the JSON.

    Raises:
        RequestValidationError: a field is missing, unknown or wrong.
        UnsupportedMediaTypeError: its headers say that it is neither JSON nor a form.
        InvalidRequestError: it is no JSON, or a form that cannot be read.
        InvalidImageError: the image cannot be read.
    """
    if read_media_type(request, JSON, FORM) == FORM:
        image, fields = await _read_form(request, images)
        return ImageRequest(image, validated(form, fields, strict=False))  # parsed from texts
    parsed = await read_model(request, body, strict=True)
    field = parsed.image_field(images.video_limits.max_frames)
    source = await images.read(*field)
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


async def _read_form(request: Request, images: Images) -> tuple[ImageBytes, dict[str, str]]:
    """Return the file and the text fields."""
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=1, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
    )
    parser.spool_max_size = images.limits.max_bytes + 1  # pixels are never written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"The form cannot be read: {error.message}") from None
    except UnicodeError:  # of a charset that not every text is in
        raise InvalidRequestError(
            "The form's texts are not in the charset that it names.", param="content-type"
        ) from None
    try:
        return await _split(form, images)
    finally:
        await form.close()


async def _split(form: FormData, images: Images) -> tuple[ImageBytes, dict[str, str]]:
    fields: dict[str, str] = {}
    image: ImageBytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name == _FILE and image is not None):
            raise InvalidRequestError(f"{name}: sent more than once.", param=name)
        if (name == _FILE) != isinstance(value, UploadFile):
            expected = "a file, with a file name" if name == _FILE else "text, not a file"
            raise InvalidRequestError(f"{name}: expected {expected}.", param=name)
        if isinstance(value, UploadFile):
            image = ImageBytes(await _read_file(value, images), _FILE)
        else:
            fields[name] = value
    if image is None:
        raise InvalidRequestError(f"{_FILE}: the form has no such file.", param=_FILE)
    check_leaves(fields)
    return image, fields


async def _read_file(file: UploadFile, images: Images) -> bytes:
    data = await file.read(images.limits.max_bytes + 1)
    check_size(data, images.image_media, _FILE)
    return data


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a form's field: it has no null, but may be left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return rest | kinds[0] if kinds else schema
