"""What one request wants of an image's context, in place of the server's settings."""

from dataclasses import dataclass
from typing import Literal

OnMiss = Literal["full", "compress"]


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """None leaves a thing to the server's settings.

    Attributes:
        on_miss: what a new image causes: a full pass with the describe pass behind it, or the describe pass first.
        bypass: answer by a full pass, and neither look for a context nor make one.
        retention: share of the image tokens kept, above 0 and at most 1.
        ttl: seconds for which this use renews the context.
        describe_prompt: the describe pass's instruction.
    """

    on_miss: OnMiss | None = None
    bypass: bool = False
    retention: float | None = None
    ttl: float | None = None
    describe_prompt: str | None = None
