"""Tell how a question and each of its images were looked up."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lookonce_cache import CompressedContext
from lookonce_server.sessions.fallback import Outcome

Cache = Literal["hit", "miss", "bypass", "none"]


class ImageLookup(NamedTuple):
    """How one image of a question was looked up."""

    cache: Literal["hit", "miss", "bypass"]
    context_id: str | None = None
    tier: str | None = None  # of the store that had the context
    context: CompressedContext | None = None  # that the answer comes from
    retention: float | None = None  # of a context that is made of it because of this question


class Lookup(NamedTuple):
    """How a question is answered."""

    cache: Cache  # hit: the answer comes from contexts that were all there; none: the question has no image
    images: tuple[ImageLookup, ...] = ()  # by number
    fallback: Outcome | None = None  # of an answer from contexts, where fallback is on

    @property
    def contexts(self) -> list[CompressedContext]:
        """Return the contexts that the answer comes from; none if it comes from whole images."""
        return [image.context for image in self.images if image.context is not None]

    @property
    def context_id(self) -> str | None:
        """Return the id of the one image's context; None if there are several images, or none."""
        return self.images[0].context_id if len(self.images) == 1 else None

    @property
    def tier(self) -> str | None:
        """Return the tier that all contexts came from; None if they came from several."""
        tiers = {image.tier for image in self.images}
        return tiers.pop() if len(tiers) == 1 else None


def joined(images: Sequence[ImageLookup]) -> Lookup:
    """Return the lookup of an answer from the contexts of all images."""
    return Lookup("hit" if all(image.cache == "hit" for image in images) else "miss", tuple(images))


def whole(cache: Literal["miss", "bypass"], images: Sequence[ImageLookup]) -> Lookup:
    """Return the lookup of an answer from whole images, whether they have contexts or not."""
    return Lookup(cache, without_contexts(images))


def without_contexts(images: Sequence[ImageLookup]) -> tuple[ImageLookup, ...]:
    """Return lookups of images whose contexts the answer does not come from."""
    return tuple(image._replace(tier=None, context=None) for image in images)
