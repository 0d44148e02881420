"""Read and decode the images of requests."""

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
    parse_reference,
    read_data_url,
)
from lookonce_server.metrics import Metrics


class Images:
    """Read and decode images away from the event loop.

    Args:
        limits: the largest image accepted.
        processes: decode images.
        fetcher: fetches remote URLs; None refuses them.
        metrics: counts decoded images.
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
        """Read the image, or the context's id, of a URL.

        Args:
            url: a base64 `data:` URL, `lookonce:` with a context id, or a remote one that the operator allows.
            param: the request's field that it came in.

        Raises:
            InvalidImageError: it is none of these, or cannot be read.
            OverloadedError: too many images are being fetched.
        """
        if url.startswith(SCHEME):
            return parse_reference(url, param)
        if self._fetcher is None or is_data_url(url):
            return ImageBytes(await asyncio.to_thread(read_data_url, url, self.limits, param), param)
        return ImageBytes(await self._fetcher.fetch(url, param), param)

    async def decode(self, image: ImageBytes) -> Image.Image:
        """Decode an image to RGB, as a person would see it, once for all passes.

        One that nobody waits for any more leaves the queue of images to decode.

        Raises:
            InvalidImageError: no image of a known format, damaged, beyond the limits, or too slow to decode.
        """
        if image.decoding is None:
            image.decoding = asyncio.create_task(self._decode(image))
        decoding = image.decoding
        image.waiting += 1
        try:
            return await asyncio.shield(decoding)
        finally:
            image.waiting -= 1
            if not image.waiting and not decoding.done():
                decoding.cancel()
                image.decoding = None

    async def _decode(self, image: ImageBytes) -> Image.Image:
        started_at = time.monotonic()
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
            self._metrics.image_decode_seconds.observe(time.monotonic() - started_at)
        return picture

    def close(self) -> None:
        """End the processes that decode."""
        self._processes.close()
