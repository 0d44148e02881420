"""Clients with tools, each in its own process: calls that they force, and calls that the model chooses."""

import json
from pathlib import Path
from typing import Any

import pytest

from ..support.pictures import png
from ..support.server_process import MODEL, LookonceServer
from ..support.tool_model import CALLED, write_calling_model
from .folder import HERE, TEXT, Folder, clients_python

__all__ = ["clients_python"]
COUNTED = "How many objects are there?"
FORCED = {"instructor": (), "pydantic_ai": ("forced",), "langchain": ("forced",), "smolagents": ()}
CHOSEN = ("pydantic_ai", "langchain")


@pytest.fixture(scope="module")
def calling(tmp_path_factory, clients_python) -> Any:
    """A server with a model that calls a function where another would say a number."""
    folder = write_calling_model(tmp_path_factory.mktemp("calling") / "model")
    with LookonceServer("--model", str(folder), "--served-name", MODEL) as server:
        yield server


def ask(python: str, folder: Path, server: LookonceServer, client: str, question: str, *more: str) -> dict[str, Any]:
    """What a client's script tells."""
    (folder / "picture.png").write_bytes(png(151))
    script = str(HERE / f"tools_{client}.py")
    printed = Folder(folder, server.url).run(
        python, script, f"{server.url}/v1", MODEL, "picture.png", TEXT, question, *more
    )
    return json.loads(printed.splitlines()[-1])


def test_calls_that_clients_force_are_of_their_schemas(clients_python, tmp_path, embedded):
    told = {client: ask(clients_python, tmp_path, embedded, client, COUNTED, *more) for client, more in FORCED.items()}
    for report in (told["instructor"]["report"], told["instructor"]["streamed"], told["pydantic_ai"]["report"]):
        assert report["color"] in ("red", "green", "blue")
        assert isinstance(report["sure"], bool)
    assert told["instructor"]["calls"] == ["Report"]
    name, arguments = told["langchain"]["call"]
    assert (name, type(arguments["count"]), told["langchain"]["streamed"]) == ("report", int, [[name, arguments]])
    name, arguments = told["smolagents"]["call"]
    assert (name, type(json.loads(arguments)["count"]), told["smolagents"]["steps"] > 0) == ("report", int, True)
    assert embedded.metric("requests_total", cache="hit", status="200") > 0


@pytest.mark.parametrize("client", CHOSEN)
def test_agents_run_the_calls_that_the_model_chooses(clients_python, tmp_path, calling, client):
    told = ask(clients_python, tmp_path, calling, client, COUNTED, "chosen")
    assert told["calls"] == [CALLED]
    assert len(told["counts"]) == 1
    assert told["answer"]


@pytest.mark.parametrize("client", ["instructor", "pydantic-ai"])
def test_the_pages_snippets_run(clients_python, tmp_path, embedded, client):
    folder = Folder(tmp_path, embedded.url)
    (tmp_path / "picture.png").write_bytes(png(151))
    report = json.loads(folder.run(clients_python, "-c", folder.documented(client, "python")))
    assert (report["color"] in ("red", "green", "blue"), type(report["sure"])) == (True, bool)
