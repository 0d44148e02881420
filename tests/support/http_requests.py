"""Questions over plain HTTP, and what a client gets to see of the answers."""

from typing import Any, NamedTuple

import httpx2

from .pictures import messages, picture_url
from .server_process import MODEL, LookonceServer

QUESTION = "What is there?"  # whose answers tell pictures apart


class Reply(NamedTuple):
    """What came back."""

    status: int
    cache: str | None  # "hit", "miss" or "none"
    text: str | None
    context_id: str | None
    tier: str | None
    code: str | None  # of an error
    retry_after: str | None


class Known(NamedTuple):
    """A picture, and all that may be said of it."""

    seed: int
    context_id: str
    full: str  # the answer from the whole picture
    hit: str  # the answer from its context

    def reference(self) -> str:
        """The URL that names its context."""
        return f"lookonce:{self.context_id}"


def question_about(image: str | None, question: str = QUESTION, **options: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": MODEL, "messages": messages(question, image), "max_tokens": 16} | options


def reply_of(response: httpx2.Response) -> Reply:
    """What a response says."""
    body = response.json()
    error, found = body.get("error", {}), body.get("lookonce", {})
    text = body["choices"][0]["message"]["content"] if "choices" in body else None
    return Reply(
        response.status_code,
        found.get("cache"),
        text,
        found.get("context_id"),
        found.get("tier"),
        error.get("code"),
        response.headers.get("retry-after"),
    )


def ask(server: LookonceServer, image: str | None, question: str = QUESTION, **options: Any) -> Reply:
    """Ask once."""
    return reply_of(server.post("/v1/chat/completions", json=question_about(image, question, **options)))


def prepare(server: LookonceServer, seed: int) -> httpx2.Response:
    """Have a picture described."""
    return server.post("/v1/contexts", json={"image_url": picture_url(seed)})


def get_to_know(server: LookonceServer, seeds: range) -> list[Known]:
    """New pictures with both of their answers, which no two pictures share; their contexts are kept."""
    found = []
    for seed in seeds:
        miss = ask(server, picture_url(seed))
        hit = ask(server, picture_url(seed))  # waits for the describe pass
        assert (miss.cache, hit.cache, miss.context_id) == ("miss", "hit", hit.context_id), (miss, hit)
        assert miss.context_id
        assert miss.text
        assert hit.text
        found.append(Known(seed, miss.context_id, miss.text, hit.text))
    for one in found:
        others = {text for other in found if other is not one for text in (other.full, other.hit)}
        assert not others & {one.full, one.hit}
    return found


def delete_contexts(server: LookonceServer) -> LookonceServer:
    """Delete every context once the describe passes have ended, and return the server."""
    server.wait_for("queue_depth", 0)
    while found := server.get("/v1/contexts").json()["data"]:
        for context in found:
            forget(server, context["id"])
    return server


def forget(server: LookonceServer, context_id: str | None) -> httpx2.Response:
    """Have a context deleted."""
    with server.http() as client:
        return client.delete(f"/v1/contexts/{context_id}")
