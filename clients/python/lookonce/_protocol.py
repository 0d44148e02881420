"""The server's protocol as pure functions: requests are built and replies are read here, and nothing is sent.

A client, synchronous or not, is only what carries a `Request` to the server and the reply back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ._exceptions import APIResponseError
from ._images import CONTEXT_SCHEME
from ._types import Answer, AskOptions, Context, ContextStats

_DONE = "[DONE]"


class Request(NamedTuple):
    """One HTTP request, still to be sent."""

    method: str
    path: str  # below the base URL
    body: Mapping[str, Any] | None = None  # sent as JSON
    query: Mapping[str, str | int] | None = None


class Page(NamedTuple):
    """Some of the caller's contexts."""

    contexts: list[Context]
    next: str | None  # what `list_contexts` takes as `after` to go on; None at the end


def ask(model: str, image_url: str, question: str, options: AskOptions, *, stream: bool = False) -> Request:
    """One question about one image; raises TypeError for an option that does not exist."""
    unknown = sorted(options.keys() - AskOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(AskOptions.__annotations__)}")
    content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": question}]
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}], **options}
    if "on_miss" in options:
        body["lookonce"] = {"on_miss": body.pop("on_miss")}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Request("POST", "/v1/chat/completions", body)


def prepare_context(image_url: str) -> Request:
    """An image's context: looked up where the URL names it, made from the pixels otherwise."""
    if image_url.startswith(CONTEXT_SCHEME):
        return get_context(image_url.removeprefix(CONTEXT_SCHEME))
    return Request("POST", "/v1/contexts", {"image_url": image_url})


def list_contexts(limit: int, after: str | None = None) -> Request:
    """A page of the caller's contexts, at most `limit` of them; the first, or the one after a page's `next`."""
    query: dict[str, str | int] = {"limit": limit}
    return Request("GET", "/v1/contexts", query=query if after is None else {**query, "after": after})


def context_stats() -> Request:
    """What the caller's contexts amount to."""
    return Request("GET", "/v1/contexts/stats")


def get_context(context_id: str) -> Request:
    """One context."""
    return Request("GET", f"/v1/contexts/{context_id}")


def delete_context(context_id: str) -> Request:
    """Remove one context from every tier."""
    return Request("DELETE", f"/v1/contexts/{context_id}")


def list_models() -> Request:
    """The models served."""
    return Request("GET", "/v1/models")


def read_answer(body: Any, seconds: float) -> Answer:
    """Read a chat completion."""
    try:
        return _answer(body["choices"][0]["message"]["content"], body["lookonce"], body.get("usage"), seconds)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _not_ours("a chat completion", error) from error


def read_context(body: Any) -> Context:
    """Read a context."""
    try:
        return Context(**{field.name: body[field.name] for field in fields(Context)})
    except (KeyError, TypeError) as error:
        raise _not_ours("a context", error) from error


def read_page(body: Any) -> Page:
    """Read a page of contexts."""
    contexts = [read_context(item) for item in read_list(body)]
    try:
        return Page(contexts, body["next"])
    except KeyError as error:
        raise _not_ours("a page of contexts", error) from error


def read_stats(body: Any) -> ContextStats:
    """Read what contexts amount to."""
    try:
        return ContextStats(**{field.name: body[field.name] for field in fields(ContextStats)})
    except (KeyError, TypeError) as error:
        raise _not_ours("the contexts' stats", error) from error


def read_list(body: Any) -> list[Any]:
    """Read the items of a list."""
    try:
        return list(body["data"])
    except (KeyError, TypeError) as error:
        raise _not_ours("a list", error) from error


def read_model_ids(body: Any) -> list[str]:
    """Read the names of the models served."""
    try:
        return [str(model["id"]) for model in read_list(body)]
    except (KeyError, TypeError) as error:
        raise _not_ours("a list of models", error) from error


@dataclass
class AnswerBuilder:
    """Puts an answer together from the events of a stream; `done` once the stream said so."""

    text: str = ""
    lookonce: Mapping[str, Any] | None = None
    usage: Mapping[str, Any] | None = None
    done: bool = False

    @property
    def context_id(self) -> str | None:
        """The image's context, from the first event on."""
        return self.lookonce.get("context_id") if self.lookonce else None

    def add(self, data: str) -> str:
        """Take one event's data and return the text it adds; raises StreamedError for an event that is an error."""
        if data == _DONE:
            self.done = True
            return ""
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise StreamedError(chunk["error"])
            self.lookonce = chunk.get("lookonce") or self.lookonce
            self.usage = chunk.get("usage") or self.usage
            piece = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _not_ours("a piece of an answer", error) from error
        self.text += piece
        return piece

    def answer(self, seconds: float) -> Answer:
        """The whole answer; raises APIResponseError when the stream did not carry all of it."""
        try:
            return _answer(self.text, self.lookonce or {}, self.usage, seconds)
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_ours("a streamed answer", error) from error


class StreamedError(Exception):
    """An error object came inside a stream; the carrier of the stream turns it into an APIStatusError."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error))
        self.error = error


def _answer(text: str | None, facts: Mapping[str, Any], usage: Mapping[str, Any] | None, seconds: float) -> Answer:
    usage = usage or {}
    return Answer(
        text=text or "",
        hit=facts["cache"] == "hit",
        tier=facts.get("tier"),
        context_tokens=facts["context_tokens"],
        tokens_saved=facts["tokens_saved"],
        context_id=facts.get("context_id"),
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens", 0),
        seconds=seconds,
    )


def _not_ours(what: str, error: Exception) -> APIResponseError:
    return APIResponseError(f"the reply is not {what} of a lookonce server: {type(error).__name__}: {error}")
