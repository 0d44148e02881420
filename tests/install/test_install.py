"""What a new user does: the README's commands from a clean shell, and the server's own tests in fresh environments.

The clone is of the last commit. Each environment is made from nothing, by the README's first command or by pip.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.redis_server import free_port, wait_until
from ..support.snippets import ROOT, Snippet, snippets
from .lowest import lowest

REPOSITORY = "https://github.com/lookonce/lookonce"
HTTP_TESTS = [
    f"tests/unit/server/{name}" for name in ("auth", "http", "test_logs.py", "test_metrics.py", "test_settings.py")
]
# Blocks of the README that the docs' tests parse instead: they want another model, more packages, or run this test.
ELSEWHERE = ("make test", "lookonce serve", "pip install '.[vllm")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def clean(home) -> dict[str, str]:
    """A new user's environment: nothing of the one that the tests run in, and a clone that needs no network."""
    own = str(Path(sys.prefix) / "bin")
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_")) or name == "LANG"}
    return kept | {
        "HOME": str(home),
        "PATH": os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
        "PIP_QUIET": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def clone(home, port, clean) -> Iterator[Path]:
    """The folder of a clone whose server, begun with the README's first block, listens."""
    first, *_ = (s for s in snippets(ROOT / "README.md") if s.language == "bash")
    assert f"git clone {REPOSITORY}\n" in first.text
    script = re.sub(r"^make serve\b", f"exec make serve PORT={port}", first.text, flags=re.MULTILINE)
    log = home / "serve.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            ["bash", "-euc", script], cwd=home, env=clean, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 900
        while "lookonce serves" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield home / "lookonce"
    finally:
        server.terminate()
        server.wait(60)


def test_the_readme_runs_as_it_is_written(clone, clean, port):
    """In one shell, from its second terminal on; what it says is printed is what is printed."""
    blocks = snippets(clone / "README.md")
    script, shown = ["set -eu", f"cd {clone}"], []
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if any(line.startswith(ELSEWHERE) for line in block.commands) or "git clone" in block.text:
            continue
        script += [f"echo {MARK}", *commands(block)]
        prints = after is not None and after.language == "" and block.language == "python"
        shown.append(after.text if prints else block.output if block.language == "console" else None)
    text = "\n".join(script).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash"],
        input=text,
        env=clean | {"LOOKONCE_SERVER": f"http://127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split(f"{MARK}\n")[1:]
    assert len(printed) == len(shown) >= 4
    for found, expected in zip(printed, shown, strict=True):
        if expected is not None:
            assert shape(found) == shape(expected)


LOADS = """
from pathlib import Path
import lookonce_server
from lookonce.cli import main
from tests.support.qwen2_vl import write_qwen2_vl
assert main(["check", str(write_qwen2_vl(Path(".tiny")))]) == 0
from transformers import Qwen3VLVideoProcessor, SmolVLMVideoProcessor
from transformers.models.smolvlm.processing_smolvlm import num2words
assert Qwen3VLVideoProcessor() and SmolVLMVideoProcessor() and num2words(3) == "three"
"""


def test_its_environment_has_what_processors_need(clone, clean):
    """torchvision, whose build need not fit the torch, and num2words."""
    python = clone / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-c", LOADS], cwd=clone, env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_wheel_serves_as_from_a_package_index(clone, clean, tmp_path):
    """`pip install 'lookonce[server]'; lookonce serve`, away from the clone, whose environment has the dependencies."""
    python, serve = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "lookonce"
    pip = [clone / ".venv" / "bin" / "python", "-m", "pip", "--python", python]
    subprocess.run([*pip[:3], "wheel", "--no-deps", "--wheel-dir", tmp_path, clone], env=clean, check=True, timeout=300)
    subprocess.run(["python3", "-m", "venv", "--without-pip", tmp_path / "venv"], env=clean, check=True)
    own, others = (next((folder / "lib").glob("*/site-packages")) for folder in (tmp_path / "venv", clone / ".venv"))
    (own / "dependencies.pth").write_text(f"{others}\n")  # after its own; the clone's own link is not followed
    index = ["--no-index", "--find-links", tmp_path, "--ignore-installed", "--no-deps"]
    subprocess.run([*pip, "install", *index, "lookonce[server]"], cwd=tmp_path, env=clean, check=True, timeout=300)
    found = [python, "-c", "import lookonce_server; print(lookonce_server.__file__)"]
    assert subprocess.run(found, cwd=tmp_path, env=clean, capture_output=True, text=True).stdout.startswith(str(own))
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        server = subprocess.Popen([serve, "serve", "--port", "0"], cwd=tmp_path, env=clean, stdout=file, stderr=file)
    try:
        wait_until(lambda: server.poll() is not None or "lookonce serves" in log.read_text(), "it serves", 300)
        url = re.search(r"at (http://\S+)\. Try", log.read_text())[1]
        picture = clone / "docs" / "images" / "scene.png"
        ask = [serve, "ask", "--server", url, picture, "How many squares are there?"]
        done = subprocess.run(ask, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120)
        assert "2" in done.stdout.splitlines(), done.stdout + done.stderr
    finally:
        server.terminate()
        server.wait(60)


MARK = "-----"


def commands(block: Snippet) -> list[str]:
    if block.language == "python":
        return ["python - <<'SNIPPET'", block.text + "SNIPPET"]
    return block.commands


def shape(output: str) -> str:
    """An output without the seconds that differ from run to run."""
    return re.sub(r"\d+\.\d+ s\b", "T", output).strip()


def test_the_http_tests_pass_with_the_newest_versions(clone, clean):
    """In the environment of the README's first command: what pip chooses today, and no vLLM."""
    check_http(clone, clean, clone / ".venv")


def test_the_http_tests_pass_with_the_lowest_versions(clone, clean, tmp_path):
    held = tmp_path / "lowest.txt"
    held.write_text("\n".join(lowest(clone / "pyproject.toml")))
    torch = next(line for line in held.read_text().splitlines() if line.startswith("torch=="))
    subprocess.run(["python3", "-m", "venv", tmp_path / "venv"], env=clean, check=True)
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip", "install"]
    subprocess.run([*pip, torch], env=clean, check=True, timeout=600)
    check_http(clone, clean, tmp_path / "venv", "--constraint", held)


def check_http(clone: Path, clean: dict[str, str], venv: Path, *constraint: str | Path) -> None:
    python = venv / "bin" / "python"
    install = [python, "-m", "pip", "install", *constraint, "--editable", ".[test]"]
    subprocess.run(install, cwd=clone, env=clean, check=True, timeout=600)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not extended", *HTTP_TESTS],
        cwd=clone,
        env=clean,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-8000:]
