"""The messages of a chat request, as OpenAI's clients send them."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from lookonce_server.http.schemas.must_be_unset import MustBeUnset, NoTools, RequestModel
from lookonce_server.images.decode import FORMATS

# JSON may contain halves of characters, which are no text. pydantic looks at that where a string has a constraint.
Text = Annotated[str, Field(min_length=0)]
# Formats of our own: they tell readers, and generators of requests, what a text has to be.
ModelName = Annotated[Text, Field(json_schema_extra={"format": "model-name"})]
ImageUrlText = Annotated[
    Text,
    Field(
        description=f"a base64 `data:` URL ({', '.join(FORMATS)}), `lookonce:<context id>`, or the URL of an image at a"
        " host that this server's operator allows",
        json_schema_extra={"format": "image-url"},
    ),
]


_Ignored = Annotated[Any, Field(description="ignored; in an assistant's message only")]
# Whoever sends more of them is not read to the end; nor is a list after its first wrong item.
MOST_MESSAGES = 2048  # as at OpenAI
MOST_PARTS = 1024  # of one message
Messages = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
Parts = Field(min_length=1, max_length=MOST_PARTS, fail_fast=True)


class ChatModel(RequestModel):
    """What a chat request is made of: JSON of exactly these types, and nothing unknown that asks for something."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class TextPart(ChatModel):
    """Text within a message."""

    type: Literal["text"]
    text: Text
    prompt_cache_breakpoint: Annotated[Any, MustBeUnset()] = None

    @property
    def said(self) -> str:
        """Its text."""
        return self.text


class RefusalPart(ChatModel):
    """What the assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: Text

    @property
    def said(self) -> str:
        """Its text."""
        return self.refusal


class ImageUrl(ChatModel):
    """Where an image is."""

    url: ImageUrlText
    # Every image is taken at the resolution the model's processor chooses.
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(ChatModel):
    """An image within a message."""

    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: Annotated[Any, MustBeUnset()] = None

    @property
    def said(self) -> str:
        """Its text: none."""
        return ""


def kind_of(value: Any) -> str:
    """The branch of a union that an object's `type` chooses; no field has such a name, so that errors name fields."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"type={kind}"


Part = Annotated[
    Annotated[TextPart, Tag("type=text")]
    | Annotated[ImagePart, Tag("type=image_url")]
    | Annotated[RefusalPart, Tag("type=refusal")],
    Discriminator(
        kind_of,
        custom_error_type="part_type",
        custom_error_message="a part's type must be 'text' or 'image_url', or in an assistant's message 'refusal'",
    ),
]


class AnswerExtras(ChatModel):
    """What clients keep beside an answer's text, and send back with it as history.

    It is about the text and not part of what was said, so the model is not shown it; docs/api.md lists who sends it.
    """

    annotations: _Ignored = None
    id: _Ignored = None
    parsed: _Ignored = None
    provider_specific_fields: _Ignored = None
    reasoning: _Ignored = None
    reasoning_content: _Ignored = None
    reasoning_details: _Ignored = None
    reasoning_items: _Ignored = None
    thinking_blocks: _Ignored = None


class Message(AnswerExtras):
    """One message of the conversation. Which role may have what, `parsing` checks."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"role": {"const": "assistant"}}},
            "else": {"required": ["role", "content"], "properties": {"content": {"type": ["string", "array"]}}},
        }
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Parts] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    refusal: Text | None = None
    # What an answer may be besides text, elsewhere.
    audio: Annotated[Any, MustBeUnset()] = None
    function_call: Annotated[Any, NoTools()] = None
    images: Annotated[Any, MustBeUnset([])] = None
    tool_calls: Annotated[Any, NoTools([])] = None

    @property
    def extras(self) -> list[str]:
        """Which of the `AnswerExtras` it has."""
        return [name for name in AnswerExtras.model_fields if getattr(self, name) not in (None, [], {})]

    @property
    def parts(self) -> list[TextPart | ImagePart | RefusalPart]:
        """The content as parts; a refusal beside it is its last one."""
        content = [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content or []
        return [*content, *([RefusalPart(type="refusal", refusal=self.refusal)] if self.refusal else [])]
