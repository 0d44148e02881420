"""Every code block of the README and the docs: run against a real server as it is written, page by page, in order.

A command that trains, measures for minutes, wants another model or installs packages is parsed by its own parser
instead; `tests/install` runs the README in an environment of its own.
"""

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from packaging.requirements import Requirement
from PIL import Image

from lookonce_evaluation import cli as evaluation
from lookonce_scenes import CHECKPOINT, PROFILE
from lookonce_server.auth.tenants import key_hash, new_key
from lookonce_server.settings import load_settings

from ..support.server_process import LookonceServer, environment
from ..support.snippets import PAGES, ROOT, Snippet, snippets, words

RUN = {"curl", "printf"} | {f"lookonce {name}" for name in ("ask", "chat", "check", "contexts", "describe", "new-key")}
CLIENTS = "integrations.md"  # `tests/clients` runs this page, with each client's own packages
CONTEXT_ID = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{10}\.\.\.")
KEY = new_key()


@pytest.fixture(scope="module")
def urls(embedded: LookonceServer) -> Iterator[dict[str, str]]:
    """The servers of the docs, by the address that the docs give them: one without keys, one with."""
    keys = ("--api-key-hashes", f"acme=sha256:{key_hash(KEY)}")
    with LookonceServer(*keys) as keyed:
        yield {"http://127.0.0.1:8000": embedded.url, "http://127.0.0.1:8123": keyed.url}


@pytest.fixture
def folder(tmp_path, urls) -> Path:
    """Where a reader stands: a clone, as far as the pages use it, and pictures of their own."""
    pictures = tmp_path / "docs" / "images"
    pictures.mkdir(parents=True)
    scene = shutil.copy(ROOT / "docs" / "images" / "scene.png", pictures)
    shutil.copy(scene, tmp_path / "picture.png")
    Image.open(scene).convert("RGB").save(tmp_path / "photo.jpg")
    for name in ("llava.json", "my-model.json"):
        shutil.copy(PROFILE, tmp_path / name)  # what a `lookonce calibrate` before it would have written
    (tmp_path / "my-model").symlink_to(CHECKPOINT)
    for url in urls.values():
        with (pictures / "scene.png").open("rb") as file:
            asked = httpx2.post(
                f"{url}/v1/contexts", files={"image": file}, headers={"authorization": f"Bearer {KEY}"}, timeout=60
            )
        (tmp_path / "id").write_text(asked.raise_for_status().json()["id"])
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_snippets_of_a_page_run(page, folder, urls, monkeypatch):
    monkeypatch.chdir(folder)
    found = snippets(page)
    python = [s for s in found if s.language == "python"]
    if python and page.name not in (CLIENTS, "pruning.md"):
        run([sys.executable, "-c", "\n".join(local(s.text, urls) for s in python)], urls)
    for text in (s.text for s in found if s.language == "toml"):
        tomllib.loads(text)
        if name := re.match(r"# (\S+\.toml)\n", text):
            Path(name[1]).write_text(text)
    for snippet in found:
        if snippet.language == "json" and "..." not in snippet.text:
            json.loads(snippet.text)
        for command in snippet.commands:
            follow(command, snippet, page, urls, monkeypatch)


def follow(command: str, snippet: Snippet, page: Path, urls: dict[str, str], monkeypatch) -> None:
    """Run a command, or parse it where running it is another test's, or nobody's, affair."""
    variables, (name, *arguments) = words(command)
    both = f"{name} {arguments[0]}" if name == "lookonce" else name
    where = f"{page.name}:{snippet.line}: {command}"
    if both in RUN or (both == "lookonce serve" and snippet.language == "console"):
        context_id = Path("id").read_text()
        shell = local(CONTEXT_ID.sub(context_id, command), urls)
        shown = run(["bash", "-c", shell], urls, fails="lookonce serve: " in snippet.output)
        if both in ("lookonce ask", "lookonce serve"):
            assert shape(shown) == shape(snippet.output), where
    elif both == "lookonce serve":
        with monkeypatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            load_settings(arguments[1:])
    elif name == "lookonce" or arguments[:2] == ["-m", "lookonce_evaluation"]:
        group = {"eval": evaluation.evaluate, "analyze": evaluation.analyze, "calibrate": evaluation.calibrate}
        parse(lambda: group[arguments[0]](arguments[1:]), where, monkeypatch)
    elif name == "python" and arguments[:1] == ["-m"]:
        module = importlib.import_module(arguments[1])
        monkeypatch.setattr(sys, "argv", arguments[1:])
        parse(lambda: module.main(), where, monkeypatch)
    elif name == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), where
    elif name == "pip":
        for wanted in arguments[1:]:
            check_requirement(wanted, where)
    else:
        # `tests/deploy` renders what Helm is told to install; there is no cluster to speak to, and no Docker.
        known = name in ("git", "cd", ".", "export", "python3", "helm", "kubectl", "docker") or page.name == CLIENTS
        assert known, f"{where}: nothing here runs it"


class _ParsedError(BaseException):
    """A command line was taken."""


def parse(command, where: str, monkeypatch) -> None:
    """Call a command as far as its arguments."""
    real = argparse.ArgumentParser.parse_args

    def parsed(self, *given, **more):
        real(self, *given, **more)
        raise _ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        try:
            pytest.fail(f"{where}: exit code {command()}")
        except SystemExit:
            pytest.fail(f"{where}: its arguments are not taken")
        except _ParsedError:
            pass


def check_requirement(wanted: str, where: str) -> None:
    """See that a clone has the extras that are asked of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if extras := re.fullmatch(r"\.\[(.*)\]", wanted):
        assert set(extras[1].split(",")) <= project["optional-dependencies"].keys(), where
    elif wanted not in (".", "-e", "--editable"):
        assert Requirement(wanted).name not in ("lookonce",), f"{where}: lookonce is not on the package index"


def run(command: list[str], urls: dict[str, str], *, fails: bool = False) -> str:
    """What a command prints."""
    env = environment() | {
        "LOOKONCE_SERVER": urls["http://127.0.0.1:8000"],
        "LOOKONCE_API_KEY": KEY,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "no_proxy": "*",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if fails else "")


def local(text: str, urls: dict[str, str]) -> str:
    """A text with the addresses of the servers that run."""
    for documented, real in urls.items():
        text = text.replace(documented, real)
    return text.replace("Client()", f'Client("{urls["http://127.0.0.1:8000"]}")')  # the client's own default


def shape(output: str) -> str:
    """An output without what differs from run to run."""
    return re.sub(r"\d+\.\d+ s\b", "T", output).strip()
