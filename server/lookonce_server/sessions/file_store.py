"""Keep files that clients upload, so that later requests name their images by an id.

A file's bytes are one blob. A tenant's list of files is another: a file that is not in it does not exist, whatever blob
is left of it. Servers that share a store change the list in turn, each under the store's lease on it.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from lookonce_cache import MAX_BLOB_BYTES, BlobKey, CacheError, ContextKey, Store, digest
from lookonce_server.errors import FileNotKnownError, InvalidRequestError, OverloadedError

Purpose = Literal["vision", "user_data"]
MIN_SECONDS, MAX_SECONDS = 3600, 30 * 24 * 3600  # of a file's life, as at OpenAI
MAX_NAME = 255  # characters
_ID = re.compile(r"file-([0-9a-f]{64})")
_LIST = digest(b"the list of files")
_LEASE_SECONDS = 30.0  # after which another server may change the list of one that has died meanwhile
_WAIT_SECONDS, _POLL_SECONDS = 5.0, 0.02
_log = logging.getLogger(__name__)


class KeptFile(BaseModel):
    """A file's facts, without its bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str
    bytes: int
    created_at: int  # unix seconds
    expires_at: int
    filename: str
    purpose: Purpose


class _FileList(RootModel[list[KeptFile]]):
    """A tenant's files, as they are stored, the oldest first."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What a tenant may keep.

    Attributes:
        max_files: most files.
        max_total_bytes: most bytes of all of them.
        max_bytes: most bytes of one.
        seconds: life of a file whose upload does not say.
    """

    max_files: int = 1000
    max_total_bytes: int = 128 * 1024**2
    max_bytes: int = MAX_BLOB_BYTES
    seconds: int = 7 * 24 * 3600


class FileStore:
    """Keep the files of tenants; none finds another's.

    Args:
        store: keeps the files beside its contexts.
        limits: what a tenant may keep.
    """

    def __init__(self, store: Store, limits: FileLimits) -> None:
        self.limits = limits
        self._store = store
        self._blobs = store.images

    async def add(self, tenant: str, data: bytes, filename: str, purpose: Purpose, seconds: int | None) -> KeptFile:
        """Keep a file.

        Args:
            tenant: its owner.
            data: its bytes.
            filename: as the client calls it; a long name is cut.
            purpose: as the client says.
            seconds: after which it expires; None: the limits' own.

        Raises:
            InvalidRequestError: the tenant has too many files, or too many bytes of them.
            OverloadedError: the tenant's list is being changed all the time.
            StoreUnavailableError: the store does not answer, or takes no writes.
        """
        now, life = int(time.time()), self.limits.seconds if seconds is None else seconds
        file = KeptFile(
            id=f"file-{secrets.token_hex(32)}",
            bytes=len(data),
            created_at=now,
            expires_at=now + life,
            filename=filename[:MAX_NAME],
            purpose=purpose,
        )
        self._check_room(await self._read_list(tenant), file)  # before its bytes are sent
        await self._blobs.write(_blob_key(tenant, file.id), data, ttl=life)
        try:
            async with self._changed_list(tenant) as files:
                self._check_room(files, file)
                files[file.id] = file
        except BaseException:
            await self._forget(tenant, file.id)
            raise
        return file

    async def list(self, tenant: str) -> list[KeptFile]:
        """List a tenant's files, the oldest first."""
        return list((await self._read_list(tenant)).values())

    async def get(self, tenant: str, file_id: str, *, param: str | None = None) -> KeptFile:
        """Return a file's facts.

        Args:
            tenant: its owner.
            file_id: the file's id.
            param: the request's field that has the id, if it is in one.

        Raises:
            FileNotKnownError: there is none, or it is another tenant's.
        """
        file = (await self._read_list(tenant)).get(file_id)
        if file is None:
            raise FileNotKnownError(file_id, param=param)
        return file

    async def read(self, tenant: str, file_id: str, *, param: str | None = None) -> bytes:
        """Return a file's bytes; see `get`."""
        file = await self.get(tenant, file_id, param=param)
        data = await self._blobs.read(_blob_key(tenant, file_id), ttl=max(1.0, file.expires_at - time.time()))
        if data is None:  # dropped by the store, for want of room
            await self._forget_entry(tenant, file_id)
            raise FileNotKnownError(file_id, param=param)
        return data

    async def delete(self, tenant: str, file_id: str) -> None:
        """Delete a file; see `get`."""
        if not await self._forget_entry(tenant, file_id):
            raise FileNotKnownError(file_id)
        await self._forget(tenant, file_id)

    def _check_room(self, files: dict[str, KeptFile], file: KeptFile) -> None:
        limits, used = self.limits, sum(kept.bytes for kept in files.values())
        if len(files) >= limits.max_files:
            reason = f"you keep {len(files)} files, which is the limit"
        elif used + file.bytes > limits.max_total_bytes:
            reason = f"your files have {used} bytes, and with this one more than the limit of {limits.max_total_bytes}"
        else:
            return
        raise InvalidRequestError(f"file: {reason}. Delete some.", param="file", code="file_limit_exceeded")

    async def _forget_entry(self, tenant: str, file_id: str) -> bool:
        """Take a file off the list; return whether it was there."""
        if file_id not in await self._read_list(tenant):
            return False
        async with self._changed_list(tenant) as files:
            return files.pop(file_id, None) is not None

    async def _forget(self, tenant: str, file_id: str) -> None:
        """Delete a file's bytes; those that stay expire."""
        try:
            await self._blobs.forget(_blob_key(tenant, file_id))
        except CacheError as error:
            _log.warning("the bytes of a file were not deleted, and expire: %s", error)

    @asynccontextmanager
    async def _changed_list(self, tenant: str) -> AsyncIterator[dict[str, KeptFile]]:
        """Yield the list to change, which is stored after the block."""
        key = ContextKey(tenant, _LIST)  # which no context has
        lease, deadline = await self._store.lease(key, _LEASE_SECONDS), time.monotonic() + _WAIT_SECONDS
        while lease is None:
            if time.monotonic() > deadline:
                raise OverloadedError("Your list of files is being changed all the time. Ask again in a moment.")
            await asyncio.sleep(_POLL_SECONDS)
            lease = await self._store.lease(key, _LEASE_SECONDS)
        try:
            files = await self._read_list(tenant)
            yield files
            value = _FileList(list(files.values())).model_dump_json().encode()
            await self._blobs.write(BlobKey(tenant, _LIST), value, ttl=MAX_SECONDS)
        finally:
            await self._store.release(lease)

    async def _read_list(self, tenant: str) -> dict[str, KeptFile]:
        """Read the files that have not expired, by id."""
        value = await self._blobs.read(BlobKey(tenant, _LIST), ttl=MAX_SECONDS)
        if value is None:
            return {}
        try:
            files = _FileList.model_validate_json(value).root
        except ValidationError as error:  # another release's, with the same seal
            _log.warning("a list of files cannot be read: %d errors", error.error_count())
            return {}
        now = time.time()
        return {file.id: file for file in files if file.expires_at > now}


def _blob_key(tenant: str, file_id: str) -> BlobKey:
    match = _ID.fullmatch(file_id)
    assert match  # it is on a list
    return BlobKey(tenant, match[1])
