"""The images of requests."""

import asyncio
import time

from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import DecodeProcesses, ImageLimits
from lookonce_server.images.decode.pool import DecodeCrashError, DecodeTimeoutError
from lookonce_server.images.fetch.client import Fetcher
from lookonce_server.images.sources import (
    SCHEME,
    ImageBytes,
    ImageSource,
    is_data_url,
    read_data_url,
    read_reference,
)
from lookonce_server.metrics import Metrics


class Images:
    """Reads and decodes images away from the event loop.

    Args:
        limits: the largest image accepted.
        processes: decode them.
        fetcher: fetches those with a remote URL; None where none is fetched.
        metrics: what is counted.
    """

    def __init__(
        self,
        limits: ImageLimits,
        *,
        processes: DecodeProcesses | None = None,
        fetcher: Fetcher | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.limits = limits
        self._processes = processes or DecodeProcesses()
        self._fetcher = fetcher
        self._metrics = metrics or Metrics()

    async def read(self, url: str, param: str) -> ImageSource:
        """The image, or the context, that a URL stands for.

        Args:
            url: a base64 `data:` URL, `lookonce:` with a context id, or a remote one that the operator allows.
            param: the request's field it came in.

        Raises:
            InvalidImageError: it is none of these, or cannot be read.
            OverloadedError: too many images are being fetched.
        """
        if url.startswith(SCHEME):
            return read_reference(url, param)
        if self._fetcher is None or is_data_url(url):
            return ImageBytes(await asyncio.to_thread(read_data_url, url, self.limits, param), param)
        return ImageBytes(await self._fetcher.fetch(url, param), param)

    async def decode(self, image: ImageBytes) -> Image.Image:
        """The picture as a person would see it, as RGB.

        Raises:
            InvalidImageError: no image of a known format, damaged, beyond the limits, or too slow to decode.
        """
        begun = time.monotonic()
        outcome = "failed"
        try:
            picture = await self._processes.decode(image.data, self.limits, image.param)
            outcome = "decoded"
        except DecodeTimeoutError:
            outcome = "timeout"
            raise
        except DecodeCrashError:
            outcome = "crashed"
            raise
        except InvalidImageError:
            outcome = "refused"
            raise
        finally:
            self._metrics.image_decodes.labels(outcome).inc()
            self._metrics.image_decode_seconds.observe(time.monotonic() - begun)
        return picture

    def close(self) -> None:
        """End the processes that decode."""
        self._processes.close()
