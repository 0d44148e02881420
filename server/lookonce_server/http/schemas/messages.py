"""The messages of a chat request."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.image_field import ImageField
from lookonce_server.http.schemas.must_be_unset import MustBeUnset, NoFunctions, StrictModel
from lookonce_server.http.schemas.tools import CallId, MessageCalls
from lookonce_server.images.decode import FORMATS, VIDEO_FORMATS

# For unions: pydantic names the branch of a plain str "str", which a client's object may have as a name.
Text = Annotated[str, Field(min_length=0)]
# Formats of our own, for readers of the OpenAPI document and for generators of requests.
ModelName = Annotated[str, Field(json_schema_extra={"format": "model-name"})]
ImageUrlText = Annotated[
    str,
    Field(
        description=f"a base64 `data:` URL ({', '.join(FORMATS)}), `lookonce:<context id>`, or the URL of an image at a"
        " host that this server's operator allows",
        json_schema_extra={"format": "image-url"},
    ),
]
VideoUrlText = Annotated[
    str,
    Field(
        description=f"a base64 `data:` URL ({', '.join(VIDEO_FORMATS)}), a list of its frames as"
        " `data:video/jpeg;base64,<frame>,<frame>`, `lookonce:<context id>`, or the URL of a video at a host that this"
        " server's operator allows",
        json_schema_extra={"format": "video-url"},
    ),
]
Fps = Annotated[
    float, Field(gt=0, le=1000, allow_inf_nan=False, description="frames a second that are taken from it; default: 2")
]
MaxFrames = Annotated[
    int, Field(ge=1, description="most frames that are taken from it, evenly; default: the server's limit")
]

_Ignored = Annotated[Any, Field(description="ignored; in an assistant's message only")]
# Longer lists are not read to the end; nor is a list after its first wrong item.
MAX_MESSAGES = 2048  # as at OpenAI
MAX_PARTS = 1024  # of one message
Messages = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
Parts = Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)


class TextPart(StrictModel):
    """Text within a message."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Annotated[Any, MustBeUnset()] = None


class RefusalPart(StrictModel):
    """The assistant's refusal to answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(StrictModel):
    """An image's URL."""

    url: ImageUrlText
    # Every image is taken at the resolution the model's processor chooses.
    detail: Literal["auto", "low", "high", "original"] | None = None


Uuid = Annotated[str, Field(min_length=1, max_length=128, description="the client's own name of the image")]


class ImagePart(StrictModel):
    """An image within a message, or the uuid of one that was sent before."""

    type: Literal["image_url"]
    image_url: ImageUrl | None = None
    uuid: Uuid | None = None
    prompt_cache_breakpoint: Annotated[Any, MustBeUnset()] = None

    def image_field(self, place: str) -> ImageField:
        """Return what names the image, and its field.

        Args:
            place: of the part in the request.

        Raises:
            InvalidRequestError: nothing does.
        """
        if self.image_url is None and self.uuid is None:
            raise InvalidRequestError(f"{place}.image_url: Field required.", param=f"{place}.image_url")
        url = None if self.image_url is None else self.image_url.url
        return ImageField(url, f"{place}.image_url.url", uuid=self.uuid)


FileId = Annotated[str, Field(max_length=128, description="of /v1/files", json_schema_extra={"format": "file-id"})]


class File(StrictModel):
    """An uploaded file, or one that is sent here."""

    file_id: FileId | None = None
    file_data: ImageUrlText | None = None
    filename: str | None = None  # a label

    def image_field(self, place: str) -> ImageField:
        """See `ImagePart.image_field`."""
        if self.file_id is not None and self.file_data is not None:
            raise InvalidRequestError(
                f"{place}.file_data: a file has an id or data, not both.", param=f"{place}.file_data"
            )
        if self.file_id is not None:
            return ImageField(None, f"{place}.file_id", file_id=self.file_id)
        if self.file_data is None:
            raise InvalidRequestError(f"{place}.file_id: Field required.", param=f"{place}.file_id")
        return ImageField(self.file_data, f"{place}.file_data")


class FilePart(StrictModel):
    """A file within a message, which is an image."""

    type: Literal["file"]
    file: File
    prompt_cache_breakpoint: Annotated[Any, MustBeUnset()] = None

    def image_field(self, place: str) -> ImageField:
        """See `ImagePart.image_field`."""
        return self.file.image_field(f"{place}.file")


class VideoUrl(StrictModel):
    """A video's URL."""

    url: VideoUrlText


class VideoPart(StrictModel):
    """A video within a message, as vLLM and Qwen's services take it."""

    type: Literal["video_url"]
    video_url: VideoUrl
    fps: Fps | None = None
    max_frames: MaxFrames | None = None
    prompt_cache_breakpoint: Annotated[Any, MustBeUnset()] = None


def field_value(value: Any, field: str) -> Any:
    """Return a field of an object, parsed or not."""
    return value.get(field) if isinstance(value, dict) else getattr(value, field, None)


def kind_of(value: Any) -> str:
    """Return the tag of an object's `type` in a union.

    No field has such a name, so that errors name fields alone.
    """
    return f"type={field_value(value, 'type')}"


def by_type(message: str) -> Discriminator:
    """Return the discriminator of a union by tags, with its error message."""
    return Discriminator(kind_of, custom_error_type="part_type", custom_error_message=message)


Part = Annotated[
    Annotated[TextPart, Tag("type=text")]
    | Annotated[ImagePart, Tag("type=image_url")]
    | Annotated[VideoPart, Tag("type=video_url")]
    | Annotated[FilePart, Tag("type=file")]
    | Annotated[RefusalPart, Tag("type=refusal")],
    by_type("a part's type must be 'text', 'image_url', 'file' or 'video_url', or in an assistant's message 'refusal'"),
]


class AnswerExtras(StrictModel):
    """Fields that clients keep beside an answer's text and send back with it.

    The model does not see them; docs/api.md lists the clients that send them.
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
    """One message of the conversation; `chat_request` checks its parts by role."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"role": {"const": "assistant"}}},
            "else": {"required": ["role", "content"], "properties": {"content": {"type": ["string", "array"]}}},
        }
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Parts] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    refusal: str | None = None
    tool_calls: MessageCalls | None = None  # of the assistant
    tool_call_id: CallId | None = None  # of a tool: whose result it is
    # What an answer may be besides text, elsewhere.
    audio: Annotated[Any, MustBeUnset()] = None
    function_call: Annotated[Any, NoFunctions()] = None
    images: Annotated[Any, MustBeUnset([])] = None

    @property
    def extras(self) -> list[str]:
        """Return the names of the `AnswerExtras` that are set."""
        return [name for name in AnswerExtras.model_fields if getattr(self, name) not in (None, [], {})]

    @property
    def parts(self) -> list[TextPart | ImagePart | FilePart | VideoPart | RefusalPart]:
        """Return the content as parts; a refusal beside it is the last one."""
        content = [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content or []
        return [*content, *([RefusalPart(type="refusal", refusal=self.refusal)] if self.refusal else [])]
