"""Build the requests of the server's API and parse their replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

from ._exceptions import APIResponseError
from ._types import (
    Answer,
    AskOptions,
    Context,
    ContextOptions,
    ContextStats,
    ContextTokens,
    ImageOptions,
    ImageUsage,
    Turn,
)

T = TypeVar("T")
Query = Mapping[str, str | int | float]
Part = Mapping[str, Any]
# These options of a question belong into its `lookonce` object.
_EXTENSION = ("mode", "on_miss", "cache", "fallback", "retention", "ttl", "describe_prompt")


class Request(NamedTuple, Generic[T]):
    """One HTTP request, and how its reply is parsed.

    Attributes:
        method: the HTTP method.
        path: the path below the base URL.
        parse: turns the reply into a result; raises APIResponseError for a reply that is not in the protocol.
        body: the body, sent as JSON; None for none.
        query: the query parameters; None for none.
        reply: the reply that is expected. The transport hands `events` on as the open response.
    """

    method: str
    path: str
    parse: Callable[[Any], T]
    body: Mapping[str, Any] | None = None
    query: Query | None = None
    reply: Literal["json", "bytes", "events"] = "json"


class Page(NamedTuple):
    """A page of contexts."""

    contexts: list[Context]
    next: str | None  # the cursor of the next page; None at the end


def check_options(options: Mapping[str, Any], accepted: type[Any]) -> None:
    """Raise TypeError for an option that a TypedDict does not have."""
    unknown = sorted(options.keys() - accepted.__annotations__.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(accepted.__annotations__)}")


def chat_body(
    model: str, turns: Sequence[tuple[Sequence[Part], Turn]], options: AskOptions | ImageOptions
) -> dict[str, Any]:
    """Build the body of a chat completion.

    Args:
        model: the model to ask.
        turns: the turns of the conversation, each with its images as parts of a message; the last one is asked.
        options: the options of the question, and of its session.
    """
    messages: list[dict[str, Any]] = []
    for parts, turn in turns:
        text = {"type": "text", "text": turn.question}
        messages.append({"role": "user", "content": [*parts, text] if parts else turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    body: dict[str, Any] = {"model": model, "messages": messages[:-1]}
    body |= {name: option for name, option in options.items() if name not in _EXTENSION}
    if extension := {name: option for name, option in options.items() if name in _EXTENSION}:
        body["lookonce"] = extension
    return body


def ask(body: Mapping[str, Any]) -> Request[Answer]:
    """Request an answer; its `seconds` are left to the caller."""
    return Request("POST", "/v1/chat/completions", _parse_chat_completion, body)


def stream_answer(body: Mapping[str, Any]) -> Request[Any]:
    """Request an answer as a stream of events."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    return Request("POST", "/v1/chat/completions", _unparsed, body, reply="events")


def create_context(image: Mapping[str, Any], options: ContextOptions) -> Request[Context]:
    """Request an image's context, which the server makes unless it has it."""
    return Request("POST", "/v1/contexts", parse_context, {**image, **options})


def stream_context(image: Mapping[str, Any], options: ContextOptions) -> Request[Any]:
    """Request an image's context as a stream of events."""
    body = {**image, **options, "stream": True}
    return Request("POST", "/v1/contexts", _unparsed, body, reply="events")


def list_contexts(limit: int, after: str | None = None) -> Request[Page]:
    """Request a page of contexts: the first, or the one at a page's `next`."""
    query: Query = {"limit": limit} if after is None else {"limit": limit, "after": after}
    return Request("GET", "/v1/contexts", _parse_page, query=query)


def context_stats() -> Request[ContextStats]:
    """Request the statistics of the caller's contexts."""
    return Request("GET", "/v1/contexts/stats", _parse_stats)


def get_context(context_id: str) -> Request[Context]:
    """Request one context."""
    return Request("GET", f"/v1/contexts/{context_id}", parse_context)


def get_tokens(context_id: str, retention: float | None) -> Request[ContextTokens]:
    """Request the tokens that a context keeps, or would keep at another retention."""
    return Request("GET", f"/v1/contexts/{context_id}/tokens", _parse_tokens, query=_retention(retention))


def get_heatmap(context_id: str, retention: float | None, image_url: str | None) -> Request[bytes]:
    """Request a heat map: over the image if it is sent along, else over a bare grid."""
    path, query = f"/v1/contexts/{context_id}/heatmap.png", _retention(retention)
    if image_url is None:
        return Request("GET", path, _unparsed, query=query, reply="bytes")
    return Request("POST", path, _unparsed, {"image_url": image_url}, query, reply="bytes")


def delete_context(context_id: str) -> Request[Any]:
    """Request the deletion of one context."""
    return Request("DELETE", f"/v1/contexts/{context_id}", _unparsed)


def list_models() -> Request[list[str]]:
    """Request the names of the models served."""
    return Request("GET", "/v1/models", _parse_model_ids)


def build_answer(
    text: str | None, extension: Mapping[str, Any], usage: Mapping[str, Any] | None, seconds: float
) -> Answer:
    """Build an answer from the parts of a reply.

    Args:
        text: the answer's text.
        extension: the `lookonce` object.
        usage: OpenAI's usage object.
        seconds: the time it took.

    Raises:
        KeyError, TypeError, AttributeError: the reply lacks something.
    """
    usage = usage or {}
    return Answer(
        text=text or "",
        cache=cast(str, extension["cache"]),
        tier=extension.get("tier"),
        context_tokens=extension["context_tokens"],
        tokens_saved=extension["tokens_saved"],
        context_id=extension.get("context_id"),
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens", 0),
        seconds=seconds,
        fallback=extension.get("fallback"),
        images=parse_usages(extension),
    )


def parse_usages(extension: Mapping[str, Any]) -> tuple[ImageUsage, ...]:
    """Parse how an answer used each image, from its `lookonce` object.

    Raises:
        KeyError, TypeError: the object lacks something.
    """
    uses = extension.get("images")
    if uses is None:  # a server that takes one image a conversation
        uses = [extension] if extension.get("context_id") else []
    return tuple(
        ImageUsage(
            use.get("context_id"), use["cache"], use.get("tier"), use["context_tokens"], use.get("image_tokens") or 0
        )
        for use in uses
    )


def parse_context(body: Any) -> Context:
    """Parse a context."""
    try:
        optional = {"frames": body.get("frames")}
        return Context(
            **optional, **{field.name: body[field.name] for field in fields(Context) if field.name != "frames"}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise unexpected_reply("a context", error) from error


def unexpected_reply(expected: str, error: Exception) -> APIResponseError:
    """Build the error of a reply that is not in the protocol."""
    return APIResponseError(f"the reply is not {expected} of a lookonce server: {type(error).__name__}: {error}")


def _unparsed(body: Any) -> Any:
    return body


def _parse_chat_completion(body: Any) -> Answer:
    try:
        return build_answer(body["choices"][0]["message"]["content"], body["lookonce"], body.get("usage"), 0.0)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise unexpected_reply("a chat completion", error) from error


def _parse_tokens(body: Any) -> ContextTokens:
    try:
        boxes = body.get("boxes")
        return ContextTokens(
            id=body["id"],
            grid=tuple(body["grid"]),
            scores=tuple(body["scores"]),
            kept=tuple(body["kept"]),
            retention=body["retention"],
            selection=body["selection"],
            boxes=None if boxes is None else tuple((left, top, right, bottom) for left, top, right, bottom in boxes),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unexpected_reply("a context's tokens", error) from error


def _parse_page(body: Any) -> Page:
    contexts = [parse_context(item) for item in _parse_list(body)]
    try:
        return Page(contexts, body["next"])
    except KeyError as error:
        raise unexpected_reply("a page of contexts", error) from error


def _parse_stats(body: Any) -> ContextStats:
    try:
        named = {field.name: body[field.name] for field in fields(ContextStats) if field.default is MISSING}
        return ContextStats(**named, tokens_saved=body.get("tokens_saved", 0))  # which older servers do not count
    except (KeyError, TypeError, AttributeError) as error:
        raise unexpected_reply("the contexts' stats", error) from error


def _parse_model_ids(body: Any) -> list[str]:
    try:
        return [str(model["id"]) for model in _parse_list(body)]
    except (KeyError, TypeError) as error:
        raise unexpected_reply("a list of models", error) from error


def _parse_list(body: Any) -> list[Any]:
    try:
        return list(body["data"])
    except (KeyError, TypeError) as error:
        raise unexpected_reply("a list", error) from error


def _retention(retention: float | None) -> Query | None:
    return None if retention is None else {"retention": retention}
