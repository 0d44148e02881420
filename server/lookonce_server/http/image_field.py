"""Name the field of a request that an image or a video came in."""

from typing import NamedTuple, Protocol

from lookonce_server.errors import InvalidRequestError
from lookonce_server.images.decode import FrameSampling


class AsksForFrames(Protocol):
    """A request with a video's fields."""

    @property
    def fps(self) -> float | None:
        """Frames a second."""

    @property
    def max_frames(self) -> int | None:
        """Most frames."""


class ImageField(NamedTuple):
    """The URL of an image or a video, and its field in the request."""

    url: str
    param: str
    sampling: FrameSampling | None = None  # which frames are taken of a video; None for an image

    @property
    def shown(self) -> tuple[str, FrameSampling | None]:
        """Return the URL and the frames: what is equal of equal fields."""
        return self.url, self.sampling


def frame_sampling(request: AsksForFrames, place: str, limit: int) -> FrameSampling:
    """Return which frames a request takes of a video.

    Args:
        request: with `fps` and `max_frames`.
        place: the prefix of these fields' names in the request.
        limit: most frames.

    Raises:
        InvalidRequestError: it asks for more.
    """
    if (request.max_frames or 0) > limit:
        field = f"{place}max_frames"
        raise InvalidRequestError(f"{field}: {request.max_frames}; accepted here: at most {limit}.", param=field)
    default = FrameSampling(max_frames=limit)
    return FrameSampling(request.fps or default.fps, request.max_frames or limit)
