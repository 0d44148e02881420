"""Settings of which images are accepted, and from where they are fetched."""

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from lookonce_server.images.decode.limits import MAX_PIXELS
from lookonce_server.images.fetch.addresses import parse_network
from lookonce_server.images.fetch.hosts import AllowedHost
from lookonce_server.settings.comma_list import CommaList


class ImageSettings(BaseModel):
    """Choose how many images and how large ones are accepted, how they are decoded, and where they are fetched from."""

    max_images: Annotated[int, Field(gt=0, description="the most different images of a conversation")] = 16
    max_image_bytes: Annotated[int, Field(gt=0, description="largest image accepted, encoded, in bytes")] = (
        20 * 1024 * 1024
    )
    max_image_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS, description="largest image accepted, in pixels")] = (
        40_000_000
    )
    max_request_pixels: Annotated[
        int, Field(gt=0, description="largest sum of the pixels of a question's images, where several are decoded")
    ] = 160_000_000
    max_image_side: Annotated[int, Field(gt=0, description="largest width, and height, in pixels")] = 20_000
    max_video_bytes: Annotated[int, Field(gt=0, description="largest video accepted, encoded, in bytes")] = (
        32 * 1024 * 1024
    )
    max_video_seconds: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="longest video accepted, in seconds")
    ] = 600.0
    max_frames: Annotated[
        int, Field(gt=0, le=1024, description="frames chosen from a video, where a request asks for no fewer")
    ] = 32
    image_decoders: Annotated[
        int, Field(gt=0, description="images and videos decoded at once, each in a process of its own")
    ] = 2
    image_decode_timeout: Annotated[
        float, Field(gt=0, le=3600, description="seconds that decoding an image or a video may take")
    ] = 30.0
    image_hosts: Annotated[
        CommaList,
        Field(description="hosts that images are fetched from: 'example.com,*.cdn.example.com'; default: none"),
    ] = ()
    image_http: Annotated[bool, Field(description="fetch images by http: too, not only by https:")] = False
    image_networks: Annotated[
        CommaList, Field(description="private networks that these hosts may be in, as in '10.1.2.0/24'; default: none")
    ] = ()
    image_fetch_timeout: Annotated[
        float, Field(gt=0, le=3600, description="seconds that fetching an image may take")
    ] = 10.0

    @property
    def max_body_bytes(self) -> int:
        """The largest request body: the largest image or video in base64, and 1 MiB."""
        return max(self.max_image_bytes, self.max_video_bytes) * 4 // 3 + 1024 * 1024

    @field_validator("image_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            AllowedHost.parse(host)
        return value

    @field_validator("image_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            parse_network(network)
        return value
