"""The images of a conversation: those of the response before, and those of the request."""

import asyncio
from collections.abc import Hashable

from lookonce_cache import digest
from lookonce_server.errors import ImageNotKeptError, InvalidRequestError
from lookonce_server.http.chat_request import check_image_count
from lookonce_server.http.image_field import ImageField
from lookonce_server.http.image_reader import ImageReader
from lookonce_server.http.responses.request import InputFile, InputImage, ResponseRequest, content_of, parts_of
from lookonce_server.http.responses.response_store import KeptImage, KeptResponse
from lookonce_server.http.state import AppState
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource
from lookonce_server.sessions.answer_passes import Session
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.sessions.lookup import ImageLookup


class ConversationImages:
    """Number the images of a conversation, equal ones once.

    Args:
        previous: the response that the request goes on from.

    Attributes:
        kept: their records, by number.
    """

    def __init__(self, previous: KeptResponse | None = None) -> None:
        self.kept: list[KeptImage] = list(previous.images) if previous else []
        self._previous = previous
        self._sources: list[ImageSource | None] = [
            None if image.context_id is None else ContextReference(image.context_id) for image in self.kept
        ]

    async def read(self, request: ResponseRequest, state: AppState, tenant: str) -> dict[Hashable, int]:
        """Read the images of the request; return their numbers by `ImageField.shown`.

        An image that the conversation has already keeps its number.

        Raises:
            InvalidRequestError: there are too many different ones.
            InvalidImageError: one cannot be read.
        """
        fields = _image_fields(request)
        check_image_count([field.param for field in fields], state.settings)
        params = ["previous_response_id"] * len(self.kept)
        numbers: dict[Hashable, int] = {}
        for field, source in zip(fields, await ImageReader(state, tenant).read_all(fields), strict=True):
            numbers[field.shown] = await self._add(source)
            params += [field.param] * (len(self.kept) - len(params))
        check_image_count(params, state.settings)
        return numbers

    def sources(self, options: ContextOptions) -> list[ImageSource]:
        """Return all images, by number: as they were sent, or their contexts.

        Args:
            options: of the request, which may bypass contexts.

        Raises:
            InvalidRequestError: contexts are of no use, and an image is not sent again.
            ImageNotKeptError: an image is not sent again, and has no context.
        """
        if options.bypass and not all(isinstance(source, ImageBytes) for source in self._sources):
            field = options.bypass_field or f"{options.place}cache"
            raise InvalidRequestError(f"{field}: it needs the image itself: send it again.", param=field)
        sources = [source for source in self._sources if source is not None]
        if self._previous is not None and len(sources) < len(self._sources):
            raise ImageNotKeptError(self._previous.response.id)
        return sources

    def take(self, session: Session, *, bypass: bool) -> None:
        """Take the images' contexts over from the session that answers about them."""
        lookups = [session.lookup.images[number] for number in session.numbers]
        self.kept = [_with_context(*pair, bypass=bypass) for pair in zip(self.kept, lookups, strict=True)]

    async def _add(self, source: ImageSource) -> int:
        """Add an image sent, unless it is there; return its number."""
        if isinstance(source, ImageBytes):
            image = KeptImage(context_id=None, digest=await asyncio.to_thread(digest, source.data))
        else:
            image = KeptImage(context_id=source.context_id, digest=None)
        for number, kept in enumerate(self.kept):
            if _is_same(image, kept):
                if isinstance(source, ImageBytes):
                    self._sources[number] = source
                return number
        self.kept.append(image)
        self._sources.append(source)
        return len(self.kept) - 1


def _is_same(image: KeptImage, kept: KeptImage) -> bool:
    """Return whether an image sent is one that is known: by its bytes, or by its context's id."""
    if image.digest is not None:
        return image.digest == kept.digest
    return image.context_id == kept.context_id


def _with_context(image: KeptImage, lookup: ImageLookup, *, bypass: bool) -> KeptImage:
    """Return the record of an image with its context, as far as they are known."""
    context_id = image.context_id if bypass else lookup.context_id
    known = lookup.context.identity.image_digest if lookup.context is not None else None
    return KeptImage(context_id=context_id, digest=image.digest or known)


def _image_fields(request: ResponseRequest) -> list[ImageField]:
    """Return the request's images, those of equal names once."""
    fields: dict[Hashable, ImageField] = {}
    for place, item in request.messages.items():
        for j, part in enumerate(parts_of(item)):
            if isinstance(part, InputImage | InputFile):
                field = part.image_field(f"{place}.{content_of(item)}[{j}]")
                fields.setdefault(field.shown, field)
    return list(fields.values())
