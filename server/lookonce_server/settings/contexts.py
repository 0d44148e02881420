"""Settings of how images are described, and of what a request may change of that."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from lookonce_pruning import SELECTIONS, ScoreQueries
from lookonce_server.profile import check_selection
from lookonce_server.sessions.context_options import ON_MISSES, OnMiss
from lookonce_server.settings.store import finite_seconds


class DescribeSettings(BaseModel):
    """Choose what is kept of an image, and how a new image is answered."""

    profile: Annotated[
        str | None,
        Field(
            min_length=1,
            description="file of `lookonce calibrate`, for --retention, --selection, --window and --rows where they are"
            " not given; default: the bundled model's own, for it alone; 'none': no profile",
        ),
    ] = None
    retention: Annotated[
        float, Field(gt=0, le=1, description="share of the image tokens kept, above 0 and at most 1")
    ] = 0.05
    selection: Annotated[
        str,
        Field(
            max_length=200,
            description=f"how they are chosen: {', '.join(sorted(SELECTIONS))}; with options as 'coverage:reach=0.3'",
        ),
    ] = "coverage"
    window: Annotated[
        str,
        Field(description="layers whose attention is recorded: 'middle', 'all', or a half-open range such as '4-8'"),
    ] = "middle"
    rows: Annotated[
        ScoreQueries, Field(description="whose attention scores: the description's tokens, the prompt's, or both")
    ] = "generated"
    describe_prompt: Annotated[str, Field(min_length=1, description="the describe pass's instruction")] = (
        "Describe the image."
    )
    describe_video_prompt: Annotated[
        str, Field(min_length=1, description="the describe pass's instruction for a video")
    ] = "Describe the video."
    describe_tokens: Annotated[int, Field(ge=1, le=4096, description="maximum tokens of a description")] = 128
    mode: Annotated[
        Literal["auto", "describe_first"] | None,
        Field(
            description="a new image: answer from all of it and describe behind (auto: the default), or describe first"
        ),
    ] = None
    on_miss: Annotated[
        Literal["full", "compress"] | None,
        Field(description="an older name of --mode: 'full' is auto, 'compress' is describe_first"),
    ] = None
    fallback: Annotated[
        bool,
        Field(description="ask the whole image again where a context's answer is not sure; a request may say else"),
    ] = False
    fallback_margin: Annotated[
        float,
        Field(ge=0, description="an answer is sure if each token leads the next likeliest by this, in log-probability"),
    ] = 3.0
    fallback_tokens: Annotated[
        int, Field(ge=1, le=64, description="first tokens of an answer that are looked at, and held back until then")
    ] = 8

    @property
    def on_new_image(self) -> OnMiss:
        """How a new image is answered, unless a request says."""
        return ON_MISSES[self.mode] if self.mode else self.on_miss or "full"

    @field_validator("on_miss")
    @classmethod
    def _not_beside_the_mode(cls, value: OnMiss | None, info: ValidationInfo) -> OnMiss | None:
        mode = info.data.get("mode")
        if value is not None and mode is not None and ON_MISSES[mode] != value:
            raise ValueError(f"the mode {mode!r} says otherwise; leave on_miss out")
        return value

    @field_validator("selection")
    @classmethod
    def _known_selection(cls, value: str) -> str:
        return check_selection(value)


class RequestLimitSettings(BaseModel):
    """Choose what a request may ask of its context."""

    min_retention: Annotated[float, Field(ge=0, le=1, description="smallest retention that a request may ask for")] = (
        0.0
    )
    max_retention: Annotated[
        float, Field(ge=0, le=1, description="largest retention a request may ask for; 0: --retention alone")
    ] = 0.25
    max_ttl: Annotated[
        float | None,
        Field(ge=0, description="longest ttl a request may ask for, in seconds; 0: none; default: --ttl"),
    ] = None
    max_describe_prompt: Annotated[
        int,
        Field(
            ge=0,
            le=6000,
            description="longest describe prompt a request may ask for, in characters; 0: --describe-prompt alone",
        ),
    ] = 1000

    @field_validator("max_retention")
    @classmethod
    def _not_below_the_smallest(cls, value: float, info: ValidationInfo) -> float:
        smallest = info.data.get("min_retention", 0.0)
        if 0 < value < smallest:
            raise ValueError(f"expected at least the min_retention {smallest:g}, or 0")
        return value

    @field_validator("max_ttl")
    @classmethod
    def _finite_max_ttl(cls, value: float | None) -> float | None:
        return None if value is None else finite_seconds(value)
