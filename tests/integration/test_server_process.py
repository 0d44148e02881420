"""How the server's process starts and ends: its address is taken first, signals are heard from the first line on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import transformers

from lookonce_scenes import CHECKPOINT

from ..support.checkpoint_copies import copy_checkpoint
from ..support.pseudo_terminal import PseudoTerminal
from ..support.server_process import LookonceServer, environment

SECONDS = 120.0  # only a failure, or a very busy machine, waits that long
COMMAND = (sys.executable, "-m", "lookonce", "serve")
STEP = re.compile(r" INFO lookonce_server\.\S+: (Starting|Loading|Checking) ")
WITHOUT_MODEL = ("--model", "/there/is/no/model")  # so that whatever is told first was noticed before it was looked for


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that does not come to start; its output is what it says."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def wait_until(found) -> None:
    deadline = time.monotonic() + SECONDS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has, and does not listen on yet."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        yield other.getsockname()[1]


def refused(*arguments: str) -> str:
    """The last line of a server that does not start; those before it say what it was doing."""
    ended = run(*arguments)
    assert ended.returncode == 1
    assert ended.stdout == ""
    *steps, line = ended.stderr.splitlines()
    assert all(STEP.search(step) for step in steps), ended.stderr
    return line.removeprefix("lookonce serve: ")


def test_what_cannot_be_is_told_in_a_sentence_before_the_model_is_looked_for(taken):
    assert refused("--port", str(taken), *WITHOUT_MODEL) == (
        f"--port {taken}: it is in use on 127.0.0.1 already. Stop what listens there, or give another; 0 is a free one."
    )
    assert refused("--port", "0", "--host", "192.0.2.1", "--allow-anyone", *WITHOUT_MODEL).startswith(
        "--host 192.0.2.1: it is no address of this machine."
    )
    assert refused("--port", "0", "--device", "cuda:97").startswith("--device cuda:97: there is no such device here")


def test_whatever_fails_in_a_start_is_told_in_a_sentence(tmp_path):
    """A checkpoint whose weights do not fit its configuration: torch raises, several calls deep."""
    model = tmp_path / "model"
    shutil.copytree(CHECKPOINT, model)
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 7
    (model / "config.json").write_text(json.dumps(config))
    assert re.match(
        r"(The server cannot be started: |model .* cannot be loaded: )", refused("--port", "0", "--model", str(model))
    )


def test_two_servers_that_start_at_once_do_not_get_one_port():
    from lookonce_server.errors import StartError
    from lookonce_server.http.protocol.listener import bind, listen

    (first,) = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(StartError, match=f"--port {port}: it is in use"):
        bind("127.0.0.1", port)
    (listener,) = listen([first], backlog=5, max_connections=10, refused=lambda _: None)
    with socket.create_connection(("127.0.0.1", port)) as client:
        listener.accept()[0].close()  # this end of it closes first, and lingers
        assert client.recv(1) == b""
    listener.close()
    for again in bind("127.0.0.1", port):
        again.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
def test_a_port_that_a_user_may_not_have_is_told():
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if lowest < 2:
        pytest.skip("here anybody may listen on any port")
    assert refused("--port", str(lowest - 1), *WITHOUT_MODEL).endswith(
        "Give one from 1024 on, or the right to lower ones."
    )


def hears_signals(process: psutil.Process) -> bool:
    """Whether it has a handler of SIGTERM."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def imports_torch(process: psutil.Process) -> bool:
    """Whether it has come so far that torch is being imported."""
    return "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("moment", "number"),
    [(hears_signals, signal.SIGTERM), (hears_signals, signal.SIGINT), (imports_torch, signal.SIGTERM)],
)
def test_a_signal_ends_a_start_at_once_and_quietly(tmp_path, moment, number):
    log = tmp_path / "log"
    with log.open("wb") as file:
        started = subprocess.Popen([*COMMAND, "--port", "0"], env=environment(), stdout=file, stderr=file)
    wait_until(lambda: moment(started))
    started.send_signal(number)
    assert started.wait(SECONDS) == 0
    assert all(STEP.search(line) for line in log.read_text().splitlines())


BAR = "Loading weights: 100%"
STEPS = ("Starting lookonce: model ", "Loading the model: ", "Checking the model: ")


def test_a_start_at_a_terminal_says_what_it_does_with_a_progress_bar():
    with PseudoTerminal("serve", "--port", "0", environment=environment()) as terminal:
        terminal.wait_for("point any OpenAI client at it")
        terminal.type("\x03")
        assert terminal.end() == 0
    steps = [*STEPS[:2], BAR, STEPS[2], "lookonce serves 'lookonce-scenes' at http://"]
    assert sorted(steps, key=terminal.text.index) == steps
    assert all(terminal.text.count(step) == 1 for step in steps if step != BAR)  # which is drawn anew as it grows


@pytest.fixture
def exit_file(tmp_path, monkeypatch) -> Path:
    """A file that a server writes at its exit, by a function that is registered before any of ours: as coverage's."""
    path = tmp_path / "exited"
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, pathlib; atexit.register(pathlib.Path({str(path)!r}).touch)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return path


def test_a_log_of_json_has_nothing_else_and_the_exit_is_a_whole_one(exit_file, taken):
    """Every line of the process's output, from its first to its last, though the store is away."""
    store = f"redis://127.0.0.1:{taken}/0"
    with LookonceServer("--log-format", "json", "--store", store) as server:
        assert server.get("/health").status_code == 200
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log().splitlines()]
    messages = [line["message"] for line in lines]
    assert not any("Loading weights" in message for message in messages)
    steps = (*STEPS, f"lookonce serves 'lookonce-scenes' at {server.url}. Try its page: {server.url}/")
    told = [next(message for message in messages if message.startswith(step)) for step in steps]
    assert sorted(told, key=messages.index) == told
    away = [line["level"] for line in lines if line["message"].startswith("the store does not answer. Until it does")]
    assert away == ["warning"]
    assert exit_file.exists()


def test_a_start_that_fails_is_a_line_of_json_too():
    failed = run("--port", "0", "--log-format", "json", *WITHOUT_MODEL)
    lines = [json.loads(line) for line in failed.stderr.splitlines()]
    assert (failed.returncode, failed.stdout, lines[-1]["level"]) == (1, "", "critical")
    assert WITHOUT_MODEL[1] in lines[-1]["message"]


def test_a_model_that_cannot_be_served_ends_the_start_with_one_sentence(tmp_path):
    """A family, an unknown class, and one without a template: told before anything is loaded, while, and after."""
    families = {
        "paligemma": (
            {"model_type": "paligemma", "architectures": ["PaliGemmaForConditionalGeneration"]},
            "model '{folder}' (PaliGemmaForConditionalGeneration) cannot be served by image re-prompting: all tokens of"
            " its prompt see each other (prefix-LM attention), so that the image's keys change with the question. Use"
            " instead: SmolVLM, Qwen2.5-VL and LLaVA-OneVision.",
        ),
        "unknown": (
            {"model_type": "brand_new", "architectures": ["BrandNew"]},
            "model '{folder}' (BrandNew): its configuration cannot be loaded: transformers {version} does not know the"
            " model type 'brand_new'.",
        ),
        "speechless": (
            None,
            "model '{folder}' (LlavaForConditionalGeneration) has no chat template, so that no conversation can be"
            " rendered.",
        ),
    }
    folders = [copy_checkpoint(tmp_path / name) for name in families]
    for folder in folders:
        (folder / "chat_template.jinja").unlink()
        if config := families[folder.name][0]:
            (folder / "config.json").write_text(json.dumps(config))
    with ThreadPoolExecutor() as pool:
        told = list(pool.map(lambda folder: refused("--port", "0", "--model", str(folder)), folders))
    for folder, line in zip(folders, told, strict=True):
        assert line == families[folder.name][1].format(folder=folder, version=transformers.__version__)
