"""Serve `/v1/files`: images that later requests name by their ids."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from lookonce_server.errors import BodyTooLargeError, InvalidImageError, InvalidRequestError
from lookonce_server.http.bodies.form import read_form
from lookonce_server.http.bodies.json_body import FORM, read_media_type, validated
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.schemas.field_names import sendable
from lookonce_server.http.schemas.files import UPLOAD_BODY, FileDeleted, FileForm, FileList, FileObject, FilesQuery
from lookonce_server.http.state import Tenant, state_of
from lookonce_server.images.decode.formats import FORMATS, format_of
from lookonce_server.sessions.file_store import FileStore

router = APIRouter(prefix="/v1/files")
_FILE = "file"
_SCHEMA = {"schema": {"type": "string", "format": "binary"}}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file's bytes.", "content": {"application/octet-stream": _SCHEMA}}
}


@router.post("", responses=errors(400, 415, 503), openapi_extra=UPLOAD_BODY)
async def create(request: Request, tenant: Tenant) -> FileObject:
    """Upload an image."""
    files = _files(request)
    read_media_type(request, FORM)
    form = await read_form(request, _FILE, files.limits.max_bytes)
    fields = validated(FileForm, form.fields, strict=False)  # parsed from texts
    if (fields.anchor is None) != (fields.seconds is None):
        missing = "anchor" if fields.anchor is None else "seconds"
        param = f"expires_after[{missing}]"
        raise InvalidRequestError(f"{param}: Field required.", param=param)
    _check_image(form.data, files.limits.max_bytes)
    name = sendable(form.filename) or "upload"
    return FileObject.of(await files.add(tenant, form.data, name, fields.purpose, fields.seconds))


@router.get("", responses=errors(400, 503))
async def index(request: Request, tenant: Tenant, query: Annotated[FilesQuery, Query()]) -> FileList:
    """List the files, a page at a time."""
    files = await _files(request).list(tenant)
    if query.order == "desc":
        files.reverse()
    ids = [file.id for file in files]
    if query.after is not None and query.after not in ids:
        raise InvalidRequestError(f"after: {query.after!r} is no file of yours.", param="after")
    rest = files[ids.index(query.after) + 1 :] if query.after is not None else files
    rest = [file for file in rest if query.purpose in (None, file.purpose)]
    page = [FileObject.of(file) for file in rest[: query.limit]]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return FileList(data=page, first_id=first, last_id=last, has_more=len(page) < len(rest))


@router.get("/{file_id}", responses=errors(400, 404, 503))
async def get(file_id: str, request: Request, tenant: Tenant) -> FileObject:
    """Return a file's facts."""
    return FileObject.of(await _files(request).get(tenant, file_id))


@router.get("/{file_id}/content", response_class=Response, responses={**_BYTES, **errors(400, 404, 503)})
async def content(file_id: str, request: Request, tenant: Tenant) -> Response:
    """Return a file's bytes, to be saved and not to be shown."""
    data = await _files(request).read(tenant, file_id)
    headers = {"content-disposition": "attachment"}  # a browser that opened it would run what it holds
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}", responses=errors(400, 404, 503))
async def delete(file_id: str, request: Request, tenant: Tenant) -> FileDeleted:
    """Delete a file. Contexts that were made of it stay."""
    await _files(request).delete(tenant, file_id)
    return FileDeleted(id=file_id)


def _files(request: Request) -> FileStore:
    files = state_of(request).files
    if files is None:
        raise InvalidRequestError("This server keeps no files.")
    return files


def _check_image(data: bytes, max_bytes: int) -> None:
    """Reject what is no image by its size or by its first bytes."""
    if not data:
        raise InvalidImageError(f"{_FILE}: it is empty.", param=_FILE)
    if len(data) > max_bytes:
        raise BodyTooLargeError(f"The file is larger than the limit of {max_bytes} bytes.")
    if format_of(data) is None:
        raise InvalidImageError(f"{_FILE}: no image of a known format ({', '.join(FORMATS)}).", param=_FILE)
