"""A question, with each of its images once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lookonce_cache import ContextIdentity, ContextKey
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.sessions.context_options import ContextOptions


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image whose bytes came with the question.

    Attributes:
        image: its bytes.
        identity: of its context, whether there is one or not.
    """

    image: ImageBytes
    identity: ContextIdentity
    key: ContextKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.identity.key())

    @property
    def context_id(self) -> str:
        """Return the id that its context has, or would have."""
        return self.key.id


QuestionImage = SentImage | ContextReference


@dataclass(frozen=True, slots=True)
class Question:
    """A question to answer.

    Attributes:
        conversation: the question, and what came before it.
        images: its different images, by number.
        samplings: one per answer.
        tenant: owner of the contexts.
        options: the request's own choices for the contexts.
    """

    conversation: Conversation
    images: tuple[QuestionImage, ...]
    samplings: tuple[Sampling, ...]
    tenant: str
    options: ContextOptions

    @property
    def references(self) -> list[str]:
        """Return the context ids of images that came without their bytes."""
        return [image.context_id for image in self.images if isinstance(image, ContextReference)]


class MergedImages(NamedTuple):
    """A conversation whose equal images are one."""

    conversation: Conversation
    images: tuple[QuestionImage, ...]  # by number
    numbers: tuple[int, ...]  # of each image given, in the same order


def merge_images(conversation: Conversation, images: Sequence[QuestionImage]) -> MergedImages:
    """Make images with the same context one, with its bytes if they are there.

    Args:
        conversation: with the images by number.
        images: by number.
    """
    merged: dict[str, QuestionImage] = {}
    for image in images:
        if isinstance(merged.setdefault(image.context_id, image), ContextReference):
            merged[image.context_id] = image  # keeps its place
    order = {context_id: number for number, context_id in enumerate(merged)}
    numbers = tuple(order[image.context_id] for image in images)
    if len(merged) < len(images):
        conversation = _renumber(conversation, numbers)
    return MergedImages(conversation, tuple(merged.values()), numbers)


def _renumber(conversation: Conversation, numbers: Sequence[int]) -> Conversation:
    """Give images other numbers."""
    return replace(
        conversation,
        turns=tuple(
            replace(turn, parts=tuple(part if isinstance(part, str) else numbers[part] for part in turn.parts))
            for turn in conversation.turns
        ),
        videos=frozenset(numbers[video] for video in conversation.videos),
    )
