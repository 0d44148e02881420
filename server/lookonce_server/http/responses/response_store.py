"""Keep responses, so that the next request only sends the new messages.

A record holds the whole conversation, not a pointer to the response before: one read finds it, and each response can be
deleted, and expires, by itself. Of each image it holds the id of its context, and a digest; never a pixel.
"""

import logging
import re
import secrets
from collections.abc import Hashable, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lookonce_cache import BlobKey, BlobStore, CacheError
from lookonce_server.errors import InvalidRequestError, ResponseNotFoundError
from lookonce_server.http.responses import objects
from lookonce_server.http.responses.request import (
    FunctionCallItem,
    FunctionOutputItem,
    InputFile,
    InputImage,
    MessageItem,
    parts_of,
)

ListedItem = objects.ListedItem | objects.ListedCall | objects.ListedOutput
_log = logging.getLogger(__name__)
_ID = re.compile(r"resp_([0-9a-f]{64})")
_MAX_BYTES = 512 * 1024  # of a conversation that is kept


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KeptPart(_Kept):
    """A part of a message: text, or the place of an image."""

    type: Literal["input_text", "output_text", "input_image"]
    text: str = ""
    image: int | None = None  # number in the conversation


class KeptItem(_Kept):
    """A message, a call or its result."""

    id: str
    role: Literal["system", "developer", "user", "assistant", "tool"]
    parts: list[KeptPart]
    call_id: str | None = None  # of a call, and of a result
    name: str | None = None  # of a call: the function
    arguments: str = ""

    @classmethod
    def of(cls, item: MessageItem, numbers: Mapping[Hashable, int]) -> "KeptItem":
        """Return the record of a message, with images by number instead of name."""
        parts = [
            KeptPart(type="input_image", image=numbers[part.image_field("").shown])
            if isinstance(part, InputImage | InputFile)
            else KeptPart(type=part.type, text=part.text)
            for part in parts_of(item)
        ]
        if isinstance(item, FunctionCallItem):
            fields = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            return cls(id=item_id("fc"), role="assistant", parts=[], **fields)
        if isinstance(item, FunctionOutputItem):
            return cls(id=item_id("fco"), role="tool", parts=parts, call_id=item.call_id)
        return cls(id=item_id(), role=item.role, parts=parts)

    @classmethod
    def of_call(cls, call: objects.FunctionCall) -> "KeptItem":
        """Return the record of an answer's call."""
        return cls(
            id=call.id, role="assistant", parts=[], call_id=call.call_id, name=call.name, arguments=call.arguments
        )


class KeptImage(_Kept):
    """An image of the conversation."""

    context_id: str | None  # None if none was made
    digest: str | None  # of its bytes, as far as known


class KeptResponse(_Kept):
    """A response and the conversation that it answered, without instructions.

    Instructions hold for one response alone.
    """

    response: objects.ResponseObject
    items: list[KeptItem]
    images: list[KeptImage]  # by number

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        numbers = {part.image for item in self.items for part in item.parts if part.type == "input_image"}
        if not numbers.issubset(range(len(self.images))):
            raise ValueError("an image of the messages is missing")
        return self

    @property
    def conversation(self) -> list[KeptItem]:
        """Return the conversation with this answer, without its reasoning."""
        message, calls = self.response.message, list(map(KeptItem.of_call, self.response.calls))
        if message is None and calls:
            return [*self.items, *calls]
        message = message or objects.OutputMessage(id=item_id())
        answer = KeptPart(type="output_text", text="".join(part.text for part in message.content))
        return [*self.items, KeptItem(id=message.id, role="assistant", parts=[answer]), *calls]

    def listed_items(self) -> list[ListedItem]:
        """Return the messages as OpenAI lists them."""
        return list(map(self._listed_item, self.items))

    def _listed_item(self, item: KeptItem) -> ListedItem:
        parts = [self._listed(part) for part in item.parts]
        if item.name is not None and item.call_id is not None:
            return objects.ListedCall(id=item.id, call_id=item.call_id, name=item.name, arguments=item.arguments)
        if item.role == "tool":
            return objects.ListedOutput(id=item.id, call_id=item.call_id or "", output=parts)
        return objects.ListedItem(id=item.id, role=item.role, content=parts)

    def encoded(self) -> bytes:
        """Return the record's bytes."""
        return self.model_dump_json(by_alias=True).encode()

    def _listed(self, part: KeptPart) -> objects.ListedText | objects.ListedAnswer | objects.ListedImage:
        if part.image is not None:
            context_id = self.images[part.image].context_id
            return objects.ListedImage(image_url=context_id and f"lookonce:{context_id}")
        return (objects.ListedText if part.type == "input_text" else objects.ListedAnswer)(text=part.text)


def response_id() -> str:
    """Return an id for a new response: 256 random bits."""
    return f"resp_{secrets.token_hex(32)}"


def item_id(kind: str = "msg") -> str:
    """Return an id for a new message, or for an item of another kind."""
    return f"{kind}_{secrets.token_hex(24)}"


class ResponseStore:
    """Keep a tenant's responses, which no other tenant can find.

    Args:
        records: of the server's store.
        tenant: the owner of the responses.
    """

    def __init__(self, records: BlobStore, tenant: str) -> None:
        self._records = records
        self._tenant = tenant

    async def find(self, response_id: str, *, param: str | None = None) -> KeptResponse:
        """Return a response. Counts as use.

        Args:
            response_id: the response's id.
            param: the request's field that has the id, if it is in one.

        Raises:
            ResponseNotFoundError: there is none, it is another tenant's, or the record is no response.
            StoreUnavailableError: the store does not answer.
        """
        key = self._key(response_id)
        value = await self._records.read(key) if key else None
        try:
            if value is not None:
                return KeptResponse.model_validate_json(value, by_alias=True)
        except ValidationError as error:  # another release's, with the same seal
            _log.warning("a kept response cannot be read: %d errors", error.error_count())
        raise ResponseNotFoundError(response_id, param=param)

    async def keep(self, kept: KeptResponse, *, ttl: float | None) -> bool:
        """Keep a response; return whether the store has it."""
        key = self._key(kept.response.id)
        assert key
        try:
            await self._records.write(key, kept.encoded(), ttl=ttl)
        except CacheError as error:
            _log.warning("a response was not kept: %s", error)
            return False
        return True

    async def delete(self, response_id: str) -> None:
        """Delete a response.

        Raises:
            ResponseNotFoundError: there is none with that id.
            StoreUnavailableError: the store does not answer.
        """
        key = self._key(response_id)
        if key is None or not await self._records.forget(key):
            raise ResponseNotFoundError(response_id)

    def _key(self, response_id: str) -> BlobKey | None:
        match = _ID.fullmatch(response_id)
        return BlobKey(self._tenant, match[1]) if match else None


def check_size(kept: KeptResponse) -> None:
    """Reject a conversation that is too large to keep."""
    size = len(kept.encoded())
    if size > _MAX_BYTES:
        raise InvalidRequestError(
            f"The conversation has {size} bytes; one that is kept may have {_MAX_BYTES}. Begin a new one, or send"
            " store=false.",
            param="input",
        )
