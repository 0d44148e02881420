"""Clients that people have, each in its own process, against a real server.

Their environment is its own, since they want other versions of the openai package than the server's tests: `make test`
makes it, and names its interpreter in LOOKONCE_TEST_CLIENTS_PYTHON.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..support.pictures import data_url, find_question, messages, picture_url, png
from ..support.server_process import MODEL, LookonceServer
from .folder import DOCS, HERE, TEXT, Folder, clients_python

__all__ = ["clients_python"]

# What each client's error class for a 400 is called, and the field that its script spoils.
REFUSALS = {
    "langchain": ("OpenAIInvalidRequestError", "tools"),
    "llamaindex": ("BadRequestError", "temperature"),
    "litellm": ("BadRequestError", "temperature"),
    "llm": ("BadRequestError", "logit_bias.99999"),
}
OTHER = 140
SEEDS = {client: 141 + i for i, client in enumerate(REFUSALS)}


@pytest.fixture(scope="module")
def server(embedded: LookonceServer) -> LookonceServer:
    return embedded


@pytest.fixture
def folder(tmp_path, server) -> Folder:
    found = Folder(tmp_path, server.url)
    shutil.copy(DOCS / "images" / "scene.png", tmp_path / "picture.png")
    (tmp_path / "other.png").write_bytes(png(OTHER))
    (tmp_path / "extra-openai-models.yaml").write_text(found.documented("llm", "yaml"))
    return found


def answer(server: LookonceServer, question: str, image: str | None) -> Any:
    """What OpenAI's own client gets."""
    with server.openai() as client:
        return client.chat.completions.create(model=MODEL, messages=messages(question, image), max_tokens=24)


def text_of(completion: Any) -> str:
    return completion.choices[0].message.content


@pytest.mark.parametrize("client", REFUSALS)
def test_a_client_gets_what_openais_gets(clients_python, server, folder, client):
    seed = SEEDS[client]
    (folder.path / "picture.png").write_bytes(png(seed))
    question = find_question(seed)
    before = server.metrics(miss=("requests_total", {"cache": "miss"}), hit=("requests_total", {"cache": "hit"}))
    script = str(HERE / f"{client}_client.py")
    told = json.loads(
        folder.run(clients_python, script, f"{server.url}/v1", MODEL, "picture.png", TEXT, question).splitlines()[-1]
    )
    after = server.metrics(miss=("requests_total", {"cache": "miss"}), hit=("requests_total", {"cache": "hit"}))
    assert {name: after[name] - before[name] for name in after} == {"miss": 1, "hit": 1}

    plain = answer(server, TEXT, None)
    assert told["whole"] == told["later"] == "".join(told["streamed"]) == "".join(told["later_streamed"])
    assert (told["whole"], told["usage"]) == (text_of(plain), plain.usage.completion_tokens)
    hit = answer(server, question, picture_url(seed))
    assert hit.lookonce["cache"] == "hit"
    assert told["again"] == text_of(hit)
    with server.openai() as forgetting:
        forgetting.delete(f"/contexts/{hit.lookonce['context_id']}", cast_to=object)
    assert told["first"] == text_of(answer(server, question, picture_url(seed)))

    assert told["structured"]["color"] in ("red", "green", "blue")
    assert isinstance(told["structured"]["seen"], bool)

    check_history(server, client, told)
    kind, field = REFUSALS[client]
    assert (told["refused"]["kind"], told["refused"]["status"]) == (kind, 400)
    assert field in told["refused"]["message"]


OVERFLOWS = {"langchain": "OpenAIContextOverflowError", "litellm": "ContextWindowExceededError"}


def check_history(server: LookonceServer, client: str, told: dict[str, Any]) -> None:
    """An answer sent back as the client keeps it, and prompts that are too long, as the client knows such errors."""
    if client in OVERFLOWS:
        assert told["too_long"] == [OVERFLOWS[client]] * 2
    if "history" not in told:  # a client that keeps the text alone
        return
    with server.openai() as plain:
        turn = {"role": "user", "content": TEXT}
        history = [turn, {"role": "assistant", "content": told["whole"]}, turn]
        expected = text_of(plain.chat.completions.create(model=MODEL, messages=history, max_tokens=24))
    assert set(told["history"]) == {expected}
    assert told.get("spared", told["whole"]) == told["whole"]
    assert told.get("parsed_history", "said") != ""


# --- the page's own snippets ------------------------------------------------------------------------------------------


@pytest.fixture
def expected(server, folder) -> Iterator[list[str]]:
    """What a snippet must print: the answers of a miss and a hit; the picture is new to the server again."""
    url = data_url((folder.path / "picture.png").read_bytes())
    asked = [answer(server, question, url) for question in ("How many objects are there?", "What is at the top left?")]
    assert [one.lookonce["cache"] for one in asked] == ["miss", "hit"]

    def forget() -> None:
        with server.openai() as client:
            client.delete(f"/contexts/{asked[0].lookonce['context_id']}", cast_to=object)

    forget()
    yield [text_of(one) for one in asked]
    forget()


@pytest.mark.parametrize("client", ["openai", "LangChain", "LlamaIndex", "LiteLLM", "llm"])
def test_the_pages_snippets_run(clients_python, folder, expected, client):
    assert folder.run(clients_python, "-c", folder.documented(client, "python")).splitlines() == expected


def test_openais_snippet_runs_with_the_newest_openai(folder, expected):
    assert folder.run(sys.executable, "-c", folder.documented("openai", "python")).splitlines() == expected


def test_the_commands_of_llm_run(clients_python, folder, expected):
    path = f"{Path(clients_python).parent}:{os.environ['PATH']}"
    assert folder.run("sh", "-ec", folder.documented("llm", "sh"), PATH=path).splitlines() == expected


# --- several images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(server, folder) -> Iterator[Callable[..., Any]]:
    """Asks OpenAI's client a conversation; at the end, and when told to, the server forgets its images."""
    files = {name: data_url((folder.path / name).read_bytes()) for name in ("picture.png", "other.png")}
    stored: set[str] = set()

    def ask(*turns: tuple[tuple[str, ...], str], answers: Sequence[str] = ()) -> Any:
        sent: list[dict[str, Any]] = []
        for names, question in turns:
            images = [{"type": "image_url", "image_url": {"url": files[name]}} for name in names]
            sent.append({"role": "user", "content": [*images, {"type": "text", "text": question}]})
            sent += [{"role": "assistant", "content": text} for text in answers[len(sent) // 2 :][:1]]
        with server.openai() as client:
            answer = client.chat.completions.create(model=MODEL, messages=sent)
        stored.update(image["context_id"] for image in answer.lookonce["images"])
        return answer

    def forget() -> None:
        server.wait_for("queue_depth", 0)  # a context that is being made cannot be deleted yet
        with server.openai() as client:
            for context_id in stored:
                client.delete(f"/contexts/{context_id}", cast_to=object)
        stored.clear()

    ask.forget = forget
    yield ask
    for names in (("picture.png",), ("other.png",)):  # whoever asked last
        ask((names, TEXT))
    forget()


@pytest.mark.parametrize("python", ["newest", "pinned"])
def test_several_images_are_known_in_any_order(request, folder, ask, python):
    interpreter = sys.executable if python == "newest" else request.getfixturevalue("clients_python")
    question = "How many objects are there in both images together?"
    names = ("picture.png", "other.png")
    answers = [ask((names, question)), ask((names[::-1], question))]
    caches = [[image["cache"] for image in answer.lookonce["images"]] for answer in answers]
    assert caches == [["miss", "miss"], ["hit", "hit"]]
    expected = [f"{text_of(answer)} {cache}" for answer, cache in zip(answers, caches, strict=True)]
    ask.forget()
    printed = folder.run(interpreter, "-c", folder.documented("openai, several images", "python"))
    assert printed.splitlines() == expected


def test_an_image_that_comes_in_a_later_turn(clients_python, folder, ask):
    turns = ((("picture.png",), "What is at the center?"), (("other.png",), "Which image has more objects?"))
    first = ask(turns[0])
    second = ask(*turns, answers=[text_of(first)])
    assert second.lookonce["images"][0]["context_id"] == first.lookonce["context_id"]
    ask.forget()
    printed = folder.run(clients_python, "-c", folder.documented("LangChain, several images", "python"))
    assert printed.splitlines() == [text_of(first), text_of(second)]
