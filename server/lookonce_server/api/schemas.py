"""The requests, as OpenAI's clients send them. A field that is not honoured is refused by name, never ignored."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from lookonce_server.options import ContextOptions


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Request):
    """Text within a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Request):
    """Where an image is: a base64 `data:` URL, or `lookonce:<context id>`."""

    url: str
    # Every image is taken at the resolution the model's processor chooses.
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Request):
    """An image within a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _part_kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return str(kind)


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")],
    Discriminator(
        _part_kind,
        custom_error_type="part_type",
        custom_error_message="a part's type must be 'text' or 'image_url'",
    ),
]


class Message(_Request):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    name: str | None = None


class StreamOptions(_Request):
    """What a stream carries besides text."""

    include_usage: bool = False


class TextFormat(_Request):
    """The only response format: free text."""

    type: Literal["text"]


class ContextWishes(_Request):
    """What a request may ask of an image's context, within the operator's limits."""

    retention: Annotated[float, Field(gt=0, le=1)] | None = None
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    describe_prompt: Annotated[str, Field(min_length=1)] | None = None

    def options(self, place: str = "") -> ContextOptions:
        """The same, for sessions and contexts.

        Args:
            place: where in the request these stand, as in "lookonce.".
        """
        return ContextOptions(retention=self.retention, ttl=self.ttl, describe_prompt=self.describe_prompt, place=place)


class Extension(ContextWishes):
    """lookonce's own options."""

    on_miss: Literal["full", "compress"] | None = None
    cache: Literal["use", "bypass"] = "use"

    def options(self, place: str = "lookonce.") -> ContextOptions:
        """See `ContextWishes.options`."""
        return replace(super().options(place), on_miss=self.on_miss, bypass=self.cache == "bypass")


class ChatRequest(_Request):
    """`POST /v1/chat/completions`. Fields with one accepted value are those whose default means "not used"."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: TextFormat | None = None
    # Labels for the caller's own bookkeeping: they change no answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    lookonce: Extension = Extension()
