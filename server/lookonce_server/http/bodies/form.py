"""Read forms with one file, within bounds, without writing to a disk."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from lookonce_server.errors import BodyTooLargeError, InvalidRequestError
from lookonce_server.http.bodies.json_text import check_leaves

_MAX_FIELDS = 16  # more than any form has, so that an unknown field is rejected by its name
_MAX_FIELD_BYTES = 64 * 1024
_MAX_REST = _MAX_FIELDS * _MAX_FIELD_BYTES  # bytes of a form beside its file


class FileForm(NamedTuple):
    """A form: its file and its texts."""

    data: bytes
    filename: str
    fields: dict[str, str]


async def read_form(request: Request, file_field: str, max_bytes: int) -> FileForm:
    """Read a form; it is broken off where it grows larger than its file may be.

    Args:
        request: its body must be unread.
        file_field: the name of the file's field.
        max_bytes: the most bytes that are read of the file, and one more, to see that it is larger.

    Raises:
        InvalidRequestError: it cannot be read, lacks the file, or has a field twice.
        BodyTooLargeError: it is larger than any form with such a file.
    """
    parser = MultiPartParser(
        request.headers,
        _bounded(request.stream(), max_bytes),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.spool_max_size = max_bytes + _MAX_REST  # pixels are never written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"The form cannot be read: {error.message}") from None
    except UnicodeError:  # of a charset that not every text is in
        raise InvalidRequestError(
            "The form's texts are not in the charset that it names.", param="content-type"
        ) from None
    try:
        return await _split(form, file_field, max_bytes)
    finally:
        await form.close()


async def _bounded(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes]:
    """Yield a body's chunks, up to the size of the largest form."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes + _MAX_REST:
            raise BodyTooLargeError(f"The form is larger than any whose file keeps to the limit of {max_bytes} bytes.")
        yield chunk


async def _split(form: FormData, file_field: str, max_bytes: int) -> FileForm:
    fields: dict[str, str] = {}
    file: UploadFile | None = None
    for name, value in form.multi_items():
        if name in fields or (name == file_field and file is not None):
            raise InvalidRequestError(f"{name}: sent more than once.", param=name)
        if (name == file_field) != isinstance(value, UploadFile):
            expected = "a file, with a file name" if name == file_field else "text, not a file"
            raise InvalidRequestError(f"{name}: expected {expected}.", param=name)
        if isinstance(value, UploadFile):
            file = value
        else:
            fields[name] = value
    if file is None:
        raise InvalidRequestError(f"{file_field}: the form has no such file.", param=file_field)
    check_leaves(fields)
    return FileForm(await file.read(max_bytes + 1), file.filename or "", fields)
