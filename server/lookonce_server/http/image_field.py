"""Name the field of a request that an image or a video came in."""

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from lookonce_server.errors import InvalidRequestError
from lookonce_server.images.decode import FrameSampling
from lookonce_server.images.sources import is_data_url


class AsksForFrames(Protocol):
    """A request with a video's fields."""

    @property
    def fps(self) -> float | None:
        """Frames a second."""

    @property
    def max_frames(self) -> int | None:
        """Most frames."""


class ImageField(NamedTuple):
    """What names an image or a video, and its field in the request.

    It has a URL, the id of a file, or a uuid alone.
    """

    url: str | None
    param: str
    sampling: FrameSampling | None = None  # which frames are taken of a video; None for an image
    file_id: str | None = None
    uuid: str | None = None

    @property
    def uuid_param(self) -> str:
        """Return the field of the uuid, which stands beside the URL's object."""
        return self.param.partition(".image_url")[0] + ".uuid"

    @property
    def shown(self) -> Hashable:
        """Return what is equal of equal fields; of an image's `data:` URL its media type is nothing."""
        url = self.url
        if url is not None and self.sampling is None and is_data_url(url):
            url = url.partition(",")[2]
        return url, self.sampling, self.file_id, self.uuid


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
