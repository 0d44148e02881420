"""Read and decode the images and videos of requests."""

import asyncio
import time

from lookonce_server.engines.visuals import Visual
from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import DecodeProcesses, FrameSampling, ImageLimits, VideoLimits
from lookonce_server.images.decode.pool import DecodeCrashError, DecodeTimeoutError
from lookonce_server.images.fetch.client import Fetcher
from lookonce_server.images.sources import (
    SCHEME,
    ImageBytes,
    ImageSource,
    Media,
    is_data_url,
    parse_reference,
    read_data_url,
)
from lookonce_server.metrics import Metrics
from lookonce_server.tracing.spans import span


class Images:
    """Read and decode images and videos away from the event loop.

    Args:
        limits: the largest image accepted.
        video_limits: the largest video accepted.
        processes: decode both.
        fetcher: fetches remote URLs; None refuses them.
        metrics: counts what is decoded.
    """

    def __init__(
        self,
        limits: ImageLimits,
        *,
        video_limits: VideoLimits | None = None,
        processes: DecodeProcesses | None = None,
        fetcher: Fetcher | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.limits = limits
        self.video_limits = video_limits or VideoLimits()
        self.image_media = Media("image", limits.max_bytes)
        self.video_media = Media("video", self.video_limits.max_bytes)
        self._processes = processes or DecodeProcesses()
        self._fetcher = fetcher
        self._metrics = metrics or Metrics()

    async def read(self, url: str, param: str, sampling: FrameSampling | None = None) -> ImageSource:
        """Read the image or the video, or the context's id, of a URL.

        Args:
            url: a base64 `data:` URL, `lookonce:` with a context id, or a remote one that the operator allows.
            param: the request's field that it came in.
            sampling: which frames are chosen of a video; None for an image.

        Raises:
            InvalidImageError: it is none of these, or cannot be read.
            OverloadedError: too many are being fetched.
        """
        if url.startswith(SCHEME):
            return parse_reference(url, param)
        media = self.image_media if sampling is None else self.video_media
        if self._fetcher is None or is_data_url(url):
            data = await asyncio.to_thread(read_data_url, url, media, param)
        else:
            data = await self._fetcher.fetch(url, media, param)
        return ImageBytes(data, param, sampling)

    async def decode(self, image: ImageBytes) -> Visual:
        """Decode an image, or frames of a video, to RGB, once for all passes.

        They are as a person would see them.

        One that nobody waits for any more leaves the queue of images to decode.

        Raises:
            InvalidImageError: no image or video of a known format, damaged, beyond the limits, or too slow to decode.
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

    async def _decode(self, image: ImageBytes) -> Visual:
        started_at = time.monotonic()
        outcome = "failed"
        try:
            with span("decode image" if image.sampling is None else "decode video"):
                visual = await self._decode_in_process(image)
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
        return visual

    async def _decode_in_process(self, image: ImageBytes) -> Visual:
        if image.sampling is None:
            return await self._processes.decode(image.data, self.limits, image.param)
        return await self._processes.decode_video(image.data, self.video_limits, image.sampling, image.param)

    def close(self) -> None:
        """End the processes that decode."""
        self._processes.close()
