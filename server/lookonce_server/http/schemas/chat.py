"""The requests, as OpenAI's clients send them. A field that is not honoured is refused by name, never ignored."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from lookonce_server.http.schemas.messages import ChatModel, Message, Messages, ModelName, Text
from lookonce_server.http.schemas.must_be_unset import NO_TOOLS, MustBeUnset, NoTools, RequestModel
from lookonce_server.http.schemas.response_format import ResponseFormat
from lookonce_server.http.schemas.vllm_fields import VllmFields
from lookonce_server.sessions.context_options import ContextOptions

# FastAPI writes bounds as floating-point numbers, which these are not.
_INT64 = WithJsonSchema({"type": "integer", "format": "int64"})


class ContextParams(RequestModel):
    """What a request may ask of an image's context, within the operator's limits."""

    # Bounded only so that texts are checked at all: JSON can escape half of a character, which no tokenizer takes.
    model_config = ConfigDict(str_max_length=2**31)

    retention: Annotated[float, Field(gt=0, le=1)] | None = None
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    describe_prompt: Annotated[str, Field(min_length=1)] | None = None

    def options(self, place: str = "") -> ContextOptions:
        """The same, for sessions and contexts.

        Args:
            place: where in the request these stand, as in "lookonce.".
        """
        return ContextOptions(retention=self.retention, ttl=self.ttl, describe_prompt=self.describe_prompt, place=place)


class StreamOptions(ChatModel):
    """What a stream carries besides text. Nothing is added to hide the sizes of its events."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, MustBeUnset(False)] = None


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


class ChatRequest(VllmFields):
    """`POST /v1/chat/completions`. Null is the same as leaving a field out."""

    model: ModelName
    messages: Annotated[list[Message], Messages]

    # How the answer is made.
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
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
    response_format: ResponseFormat | None = None

    # How it is told.
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    lookonce: Extension | None = None

    # Labels for the caller's own bookkeeping: they change no answer.
    user: Text | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    prompt_cache_key: Text | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None

    # What is done anyway, and cannot be had otherwise.
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    parallel_tool_calls: bool | None = None  # there are no tools
    reasoning_effort: Literal["none"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Annotated[Any, MustBeUnset(False)] = None
    verbosity: Literal["medium"] | None = None

    # What is not there.
    audio: Annotated[Any, MustBeUnset()] = None
    function_call: Annotated[Any, NoTools("none", "auto")] = None
    functions: Annotated[Any, NoTools([], error=NO_TOOLS)] = None
    moderation: Annotated[Any, MustBeUnset()] = None
    prediction: Annotated[Any, MustBeUnset()] = None
    prompt_cache_options: Annotated[Any, MustBeUnset()] = None
    prompt_cache_retention: Annotated[Any, MustBeUnset()] = None
    tool_choice: Annotated[Any, NoTools("none", "auto")] = None
    tools: Annotated[Any, NoTools([], error=NO_TOOLS)] = None
    web_search_options: Annotated[Any, MustBeUnset()] = None
