"""Settings of the store of contexts."""

import math
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from lookonce_cache import PRECISIONS


class StoreSettings(BaseModel):
    """Choose where contexts are kept, for how long, and in which precision."""

    store: Annotated[
        str,
        Field(
            description="where contexts are kept: 'memory://?max_bytes=2GiB', 'redis://host:6379/0?hot_bytes=1GiB', ..."
        ),
    ] = "memory://?max_bytes=2GiB"
    ttl: Annotated[float, Field(gt=0, description="seconds a context lives after its last use")] = 7 * 24 * 3600.0
    precision: Annotated[
        str, Field(description=f"precision of stored contexts, smallest last: {', '.join(PRECISIONS)}")
    ] = "int8"
    store_responses: Annotated[
        bool, Field(description="keep /v1/responses' questions and answers in the store, for previous_response_id")
    ] = True
    store_responses_bytes: Annotated[
        int, Field(gt=0, description="with a memory:// store: bytes of responses kept, least recently used go first")
    ] = 64 * 1024 * 1024
    keep_images: Annotated[
        bool, Field(description="keep images in the store beside their contexts, to ask again where only the id comes")
    ] = False
    keep_images_bytes: Annotated[
        int,
        Field(gt=0, description="with a memory:// store: bytes of images and files kept, least recently used go first"),
    ] = 256 * 1024 * 1024
    files: Annotated[bool, Field(description="keep the files of /v1/files in the store, for file_id")] = True
    max_files: Annotated[int, Field(gt=0, le=10_000, description="the most files that a tenant keeps")] = 1000
    max_files_bytes: Annotated[int, Field(gt=0, description="the most bytes of a tenant's files together")] = (
        128 * 1024 * 1024
    )
    ready_needs_store: Annotated[
        bool,
        Field(description="make /ready a 503 while the store does not answer, though images are answered"),
    ] = False

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str) -> str:
        if value not in PRECISIONS:
            raise ValueError(f"expected one of {', '.join(PRECISIONS)}")
        return value

    @field_validator("ttl")
    @classmethod
    def _finite_ttl(cls, value: float) -> float:
        return finite_seconds(value)


def finite_seconds(value: float) -> float:
    """Return a duration unless it is infinite.

    Raises:
        ValueError: it is infinite or no number.
    """
    if not math.isfinite(value):
        raise ValueError("expected a finite number of seconds")
    return value
