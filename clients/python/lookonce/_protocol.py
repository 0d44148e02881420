"""The server's protocol as pure functions: requests are built and replies are read here, and nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, NamedTuple, cast

from ._exceptions import APIResponseError
from ._types import Answer, AskOptions, Context, ContextOptions, ContextStats, ContextTokens, ImageOptions, Turn

# Of a question, in its `lookonce` object.
_EXTENSION = ("on_miss", "cache", "fallback", "retention", "ttl", "describe_prompt")


class Request(NamedTuple):
    """One HTTP request, still to be sent."""

    method: str
    path: str  # below the base URL
    body: Mapping[str, Any] | None = None  # sent as JSON
    query: Mapping[str, str | int | float] | None = None
    reply: Literal["json", "bytes", "events"] = "json"  # what the server answers with


class Page(NamedTuple):
    """Some of the caller's contexts."""

    contexts: list[Context]
    next: str | None  # what `list_contexts` takes as `after` to go on; None at the end


def check_options(options: Mapping[str, Any], known: type[Any]) -> None:
    """Raise TypeError for an option that a TypedDict does not have."""
    unknown = sorted(options.keys() - known.__annotations__.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(known.__annotations__)}")


def ask(
    model: str,
    image_url: str,
    question: str,
    options: AskOptions | ImageOptions,
    turns: Sequence[Turn] = (),
    *,
    stream: bool = False,
) -> Request:
    """One question about one image, after the turns that came before it; the image is in the first of them."""
    questions = [*(turn.question for turn in turns), question]
    messages: list[dict[str, Any]] = [{"role": "user", "content": text} for text in questions]
    first = {"type": "text", "text": questions[0]}
    messages[0]["content"] = [{"type": "image_url", "image_url": {"url": image_url}}, first]
    for place, turn in enumerate(turns):
        messages.insert(2 * place + 1, {"role": "assistant", "content": turn.answer})
    body: dict[str, Any] = {"model": model, "messages": messages}
    body |= {name: option for name, option in options.items() if name not in _EXTENSION}
    if extension := {name: option for name, option in options.items() if name in _EXTENSION}:
        body["lookonce"] = extension
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Request("POST", "/v1/chat/completions", body, reply="events" if stream else "json")


def create_context(image_url: str, options: ContextOptions, *, stream: bool = False) -> Request:
    """An image's context, made unless it is there."""
    body: dict[str, Any] = {"image_url": image_url, **options}
    if stream:
        body["stream"] = True
    return Request("POST", "/v1/contexts", body, reply="events" if stream else "json")


def list_contexts(limit: int, after: str | None = None) -> Request:
    """A page of the caller's contexts, at most `limit` of them; the first, or the one after a page's `next`."""
    query: dict[str, str | int | float] = {"limit": limit}
    return Request("GET", "/v1/contexts", query=query if after is None else {**query, "after": after})


def context_stats() -> Request:
    """What the caller's contexts amount to."""
    return Request("GET", "/v1/contexts/stats")


def get_context(context_id: str) -> Request:
    """One context."""
    return Request("GET", f"/v1/contexts/{context_id}")


def get_tokens(context_id: str, retention: float | None) -> Request:
    """What a context keeps of its image, or would keep at another retention."""
    return Request("GET", f"/v1/contexts/{context_id}/tokens", query=_retention(retention))


def get_heatmap(context_id: str, retention: float | None, pixels: str | None) -> Request:
    """The same as a picture: over the image's pixels where they are sent along, on the bare grid else."""
    path, query = f"/v1/contexts/{context_id}/heatmap.png", _retention(retention)
    if pixels is None:
        return Request("GET", path, query=query, reply="bytes")
    return Request("POST", path, {"image_url": pixels}, query, reply="bytes")


def delete_context(context_id: str) -> Request:
    """Remove one context from every tier."""
    return Request("DELETE", f"/v1/contexts/{context_id}")


def list_models() -> Request:
    """The models served."""
    return Request("GET", "/v1/models")


def read_answer(body: Any, seconds: float) -> Answer:
    """Read a chat completion."""
    try:
        return answer_of(body["choices"][0]["message"]["content"], body["lookonce"], body.get("usage"), seconds)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise not_ours("a chat completion", error) from error


def read_context(body: Any) -> Context:
    """Read a context."""
    try:
        return Context(**{field.name: body[field.name] for field in fields(Context)})
    except (KeyError, TypeError) as error:
        raise not_ours("a context", error) from error


def read_tokens(body: Any) -> ContextTokens:
    """Read what is known of an image's tokens."""
    try:
        rows, columns = body["grid"]
        return ContextTokens(
            id=body["id"],
            grid=(rows, columns),
            scores=tuple(body["scores"]),
            kept=tuple(body["kept"]),
            retention=body["retention"],
            selection=body["selection"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise not_ours("a context's tokens", error) from error


def read_page(body: Any) -> Page:
    """Read a page of contexts."""
    contexts = [read_context(item) for item in _read_list(body)]
    try:
        return Page(contexts, body["next"])
    except KeyError as error:
        raise not_ours("a page of contexts", error) from error


def read_stats(body: Any) -> ContextStats:
    """Read what contexts amount to."""
    try:
        return ContextStats(**{field.name: body[field.name] for field in fields(ContextStats)})
    except (KeyError, TypeError) as error:
        raise not_ours("the contexts' stats", error) from error


def read_model_ids(body: Any) -> list[str]:
    """Read the names of the models served."""
    try:
        return [str(model["id"]) for model in _read_list(body)]
    except (KeyError, TypeError) as error:
        raise not_ours("a list of models", error) from error


def answer_of(text: str | None, facts: Mapping[str, Any], usage: Mapping[str, Any] | None, seconds: float) -> Answer:
    """An answer from what a reply carries; raises KeyError, TypeError or AttributeError where that is not enough.

    Args:
        text: the answer's.
        facts: the `lookonce` object.
        usage: OpenAI's usage object.
        seconds: that it took.
    """
    usage = usage or {}
    return Answer(
        text=text or "",
        cache=cast(str, facts["cache"]),
        tier=facts.get("tier"),
        context_tokens=facts["context_tokens"],
        tokens_saved=facts["tokens_saved"],
        context_id=facts.get("context_id"),
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens", 0),
        seconds=seconds,
        fallback=facts.get("fallback"),
    )


def not_ours(what: str, error: Exception) -> APIResponseError:
    """The error of a reply that is not in the protocol."""
    return APIResponseError(f"the reply is not {what} of a lookonce server: {type(error).__name__}: {error}")


def _read_list(body: Any) -> list[Any]:
    try:
        return list(body["data"])
    except (KeyError, TypeError) as error:
        raise not_ours("a list", error) from error


def _retention(retention: float | None) -> dict[str, str | int | float] | None:
    return None if retention is None else {"retention": retention}
