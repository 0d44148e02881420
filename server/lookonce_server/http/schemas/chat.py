"""The request of chat completions, and the fields that requests share.

A field that is not supported is rejected by name, never ignored.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.schemas.messages import Message, Messages, ModelName
from lookonce_server.http.schemas.must_be_unset import (
    MustBeUnset,
    NoFunctions,
    RequestModel,
    StrictModel,
    or_default,
)
from lookonce_server.http.schemas.response_format import ChatTextFormat
from lookonce_server.http.schemas.tools import ChatNamedChoice, ChatTools, ChoiceMode
from lookonce_server.http.schemas.vllm_fields import VllmFields
from lookonce_server.sessions.context_options import ON_MISSES, ContextOptions, Mode

_OLDER = Field(description="an older name of a part of `mode`", json_schema_extra={"deprecated": True})
_CACHE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
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

    mode: Annotated[
        Mode | None,
        Field(
            description="where an answer comes from. auto: the whole image while it is new, then its context;"
            " describe_first: its context, which is made first; full_image: always the whole image"
        ),
    ] = None
    fallback: Annotated[bool | None, Field(description="ask the whole image again if the answer is uncertain")] = None
    on_miss: Annotated[Literal["full", "compress"] | None, _OLDER] = None
    cache: Annotated[Literal["use", "bypass"] | None, _OLDER] = None

    def options(self, place: str = "lookonce.") -> ContextOptions:
        """See `ContextParams.options`.

        Raises:
            InvalidRequestError: the mode comes with an older name of it.
        """
        options = replace(super().options(place), fallback=self.fallback)
        if self.mode is None:
            return replace(options, on_miss=self.on_miss, bypass=self.cache == "bypass")
        for name in ("on_miss", "cache"):
            if getattr(self, name) is not None:
                param = f"{place}{name}"
                raise InvalidRequestError(f"{param}: mode says it already. Leave it out.", param=param)
        bypass = self.mode == "full_image"
        return replace(options, on_miss=ON_MISSES.get(self.mode), bypass=bypass, bypass_field=f"{place}mode")


class PromptCacheOptions(StrictModel):
    """OpenAI's options of its cache; here of the contexts of the images."""

    mode: Literal["implicit"] | None = None  # every image has a context
    ttl: Annotated[
        str | None, Field(pattern=r"^[1-9][0-9]{0,6}[smhd]$", description="as lookonce.ttl: '30m', '12h', '7d'")
    ] = None

    @property
    def seconds(self) -> float | None:
        """Return the ttl in seconds."""
        return None if self.ttl is None else float(self.ttl[:-1]) * _CACHE_SECONDS[self.ttl[-1]]


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
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    parallel_tool_calls: bool | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None

    def context_options(self) -> ContextOptions:
        """Return the options of the images' contexts; a ttl of `lookonce` wins over OpenAI's fields."""
        options = self.lookonce.options()
        if options.ttl is not None:
            return options
        if self.prompt_cache_options is not None and self.prompt_cache_options.seconds is not None:
            return replace(options, ttl=self.prompt_cache_options.seconds, ttl_field="prompt_cache_options.ttl")
        if self.prompt_cache_retention == "24h":
            return replace(options, ttl=24 * 3600.0, ttl_field="prompt_cache_retention")
        return options


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
    tool_choice: ChoiceMode | ChatNamedChoice | None = None

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
    web_search_options: Annotated[Any, MustBeUnset()] = None
