"""The request of chat completions, and the fields that requests share.

A field that is not supported is rejected by name, never ignored.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from lookonce_server.http.schemas.messages import Message, Messages, ModelName
from lookonce_server.http.schemas.must_be_unset import (
    MustBeUnset,
    NoFunctions,
    RequestModel,
    StrictModel,
    or_default,
)
from lookonce_server.http.schemas.response_format import ChatTextFormat
from lookonce_server.http.schemas.tools import ChatNamedChoice, ChatTools, Mode
from lookonce_server.http.schemas.vllm_fields import VllmFields
from lookonce_server.sessions.context_options import ContextOptions

# FastAPI writes bounds as floating-point numbers, which these are not.
_INT64 = WithJsonSchema({"type": "integer", "format": "int64"})


class ContextParams(RequestModel):
    """Options of an image's context, within the operator's limits."""

    retention: Annotated[float, Field(gt=0, le=1)] | None = None
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    describe_prompt: Annotated[str, Field(min_length=1)] | None = None

    def options(self, place: str = "") -> ContextOptions:
        """Return the options for sessions and contexts.

        Args:
            place: the prefix of these fields' names in the request, as "lookonce.".
        """
        return ContextOptions(retention=self.retention, ttl=self.ttl, describe_prompt=self.describe_prompt, place=place)


class Extension(ContextParams):
    """lookonce's own options."""

    model_config = ConfigDict(strict=True)

    on_miss: Literal["full", "compress"] | None = None
    cache: Literal["use", "bypass"] | None = None
    fallback: bool | None = None

    def options(self, place: str = "lookonce.") -> ContextOptions:
        """See `ContextParams.options`."""
        bypass = self.cache == "bypass"
        return replace(super().options(place), on_miss=self.on_miss, bypass=bypass, fallback=self.fallback)


class StreamOptions(StrictModel):
    """Options of a stream. Its events are not padded to hide their sizes."""

    include_obfuscation: Annotated[Any, MustBeUnset(False)] = None


class ChatStreamOptions(StreamOptions):
    """Options of a chat's stream."""

    include_usage: bool | None = None


class GenerationRequest(StrictModel):
    """The fields that chats and responses share."""

    model: ModelName
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, description="0: the likeliest token, as temperature 0")] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lookonce: Annotated[Extension, or_default(Extension)] = Extension()
    service_tier: Literal["auto", "default"] | None = None
    parallel_tool_calls: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None


class ChatRequest(GenerationRequest, VllmFields):
    """`POST /v1/chat/completions`. Null is the same as leaving a field out."""

    messages: Annotated[list[Message], Messages]

    # Sampling.
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), _INT64] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=300),
        ]
        | None
    ) = None
    response_format: ChatTextFormat | None = None

    tools: ChatTools | None = None
    tool_choice: Mode | ChatNamedChoice | None = None

    # The answer's shape.
    stream_options: ChatStreamOptions | None = None
    logprobs: bool | None = None

    # Labels for the caller's own bookkeeping: they change no answer.
    user: str | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    prompt_cache_key: str | None = None

    # What is done anyway, and cannot be had otherwise.
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    reasoning_effort: Literal["none"] | None = None
    store: Annotated[Any, MustBeUnset(False)] = None
    verbosity: Literal["medium"] | None = None

    # What is not there.
    audio: Annotated[Any, MustBeUnset()] = None
    function_call: Annotated[Any, NoFunctions("none", "auto")] = None
    functions: Annotated[Any, NoFunctions([])] = None
    moderation: Annotated[Any, MustBeUnset()] = None
    prediction: Annotated[Any, MustBeUnset()] = None
    prompt_cache_options: Annotated[Any, MustBeUnset()] = None
    prompt_cache_retention: Annotated[Any, MustBeUnset()] = None
    web_search_options: Annotated[Any, MustBeUnset()] = None
