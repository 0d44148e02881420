"""The image, built by buildah on a Debian that debootstrap makes, and run as the chart runs it: `make test-image`.

It needs root, buildah, debootstrap and the package index that pip is set to here, and takes minutes. A folder named
in LOOKONCE_TEST_IMAGE_CACHE keeps the base and the layers for the next run.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

import lookonce

from ..support.redis_server import free_port
from ..support.snippets import ROOT

MISSING = [tool for tool in ("buildah", "debootstrap", "unshare") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.image,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah and debootstrap need root here"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
SUITE = "bookworm"
WRITABLE = ("tmp", "cache", "models", "dev/shm")
BUILD_TOOLS = ("cc", "gcc", "g++", "c++", "ld", "make", "cmake", "ninja", "cargo", "rustc", "git", "hatchling", "nvcc")


class Image(NamedTuple):
    """An image that was built, and its files."""

    root: Path
    config: dict[str, Any]
    base_bytes: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a container starts with."""
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    def command(self, *arguments: str, **variables: str) -> list[str]:
        """Return what runs a program in the image: as its user, and all but four folders read-only."""
        mounts = [f"mount -t tmpfs -o mode=1777 tmpfs {folder}" for folder in WRITABLE]
        script = " && ".join(
            [
                f"mount --bind {self.root} {self.root}",
                f"cd {self.root}",
                "mount -t proc proc proc",
                "mount --rbind /dev dev",
                f"mount -o remount,bind,ro {self.root}",
                *mounts,
                f'exec chroot --userspec={self.config["User"]} {self.root} "$@"',
            ]
        )
        pairs = [f"{name}={value}" for name, value in {**self.environment, **variables}.items()]
        return ["unshare", "--mount", "bash", "-euc", script, "bash", "/usr/bin/env", "-i", *pairs, *arguments]

    def output(self, *arguments: str, **variables: str) -> str:
        """Run a program in the image and return what it prints."""
        command = self.command(*arguments, **variables)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Iterator[Image]:
    """Build the image by `make image`, as a person would, on a base of ours."""
    kept = os.environ.get("LOOKONCE_TEST_IMAGE_CACHE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("image")
    storage = ["--storage-driver", "vfs", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
    base = folder / "base"
    buildah = ["buildah", *storage]
    if not base.exists():
        debian(base)
        container = run([*buildah, "from", "scratch"])
        run([*buildah, "copy", container, str(base), "/"])
        run([*buildah, "commit", "--rm", container, "localhost/debian:test"])
    pip, volumes = pip_configuration(folder)
    arguments = [
        *("--isolation", "chroot", "--format", "docker", "--pull-never", "--layers"),
        *("--build-arg", "BASE=localhost/debian:test", "--build-arg", "TORCH_INDEX="),
        *("--secret", f"id=pip.conf,src={pip}"),
        *(f"--volume={path}:{path}:ro" for path in volumes),
    ]
    run(["make", "image", f"DOCKER={' '.join(buildah)}", f"ARGS={' '.join(arguments)}"], cwd=ROOT)
    container = run([*buildah, "from", "--pull-never", "localhost/lookonce/lookonce:0.1.0"])
    config = json.loads(run([*buildah, "inspect", container]))["Docker"]["config"]
    yield Image(Path(run([*buildah, "mount", container])), config, size(base))
    run([*buildah, "rm", container])
    if not kept:
        shutil.rmtree(folder)


def debian(folder: Path) -> Path:
    """Make a Debian with Python, in place of the image on a registry, and without what only its making needs."""
    run(["debootstrap", "--variant=minbase", "--include=python3-venv,ca-certificates", SUITE, str(folder)])
    for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "debootstrap"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def pip_configuration(folder: Path) -> tuple[Path, list[Path]]:
    """Return a file of pip's settings on this machine, and the folders and files that they name."""
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", run(["pip", "config", "list"]), re.MULTILINE))
    settings.pop("constraint", None)
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    named = re.findall(r"(?:^|\s|file://)(/\S+)", " ".join(settings.values()))
    paths = {Path(name).parent if "simple" in name else Path(name) for name in named}
    return file, sorted(path for path in paths if path.exists())


def run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    return done.stdout.strip()


def size(folder: Path) -> int:
    return 1024 * int(run(["du", "--summarize", "--one-file-system", "--block-size=1K", str(folder)]).split()[0])


def test_it_serves_with_a_read_only_root_as_a_user_without_rights(image):
    """The bundled model answers; its health check goes well; SIGTERM ends it with code 0."""
    port = free_port()
    variables = {"LOOKONCE_PORT": str(port), "LOOKONCE_HOST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    entry, arguments = image.config["Entrypoint"], image.config["Cmd"]
    assert [*entry, *arguments] == ["lookonce", "serve"]
    started = time.monotonic()
    server = subprocess.Popen(
        image.command(*entry, *arguments, **variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", server)
        seconds = time.monotonic() - started
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
        root = Path(f"/proc/{server.pid}/root")
        with pytest.raises(OSError, match="Read-only"):
            (root / "opt" / "x").touch()
        with lookonce.Client(f"http://127.0.0.1:{port}") as client:
            picture = client.image(str(ROOT / "docs" / "images" / "scene.png"))
            picture.prepare()
            answer = picture.ask("How many squares are there?")
            assert (answer.hit, answer.text) == (True, "2")
        kind, *check = image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        image.output(*check, **variables)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, server.stdout.read()
    finally:
        server.kill()
        server.wait()
    total = size(image.root)
    print(f"\n{total / 1e6:.0f} MB, {image.base_bytes / 1e6:.0f} of them the base; ready after {seconds:.1f} s")  # noqa: T201
    assert total - image.base_bytes < 1.5e9


def wait_until_ready(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while True:
        assert server.poll() is None, server.stdout.read()
        try:
            if httpx2.get(f"{url}/ready", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_server_its_health_check_fails(image):
    _, *check = image.config["Healthcheck"]["Test"]
    done = subprocess.run(image.command(*check, LOOKONCE_PORT=str(free_port())), capture_output=True, timeout=60)
    assert done.returncode == 1


def test_it_refuses_to_serve_strangers_without_keys(image):
    """The image listens on every address, so that it wants keys, or to be told that anyone may ask."""
    done = subprocess.run(image.command("lookonce", "serve"), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "--api-keys" in done.stderr


def test_it_has_what_is_pinned_and_no_build_tools(image):
    freeze = image.output("pip", "list", "--format", "freeze").lower().replace("_", "-")
    found = dict(line.split("==") for line in freeze.split())
    assert found.pop("lookonce") == "0.1.0"
    constraints = (ROOT / "deploy" / "docker" / "constraints.txt").read_text()
    pins = dict(line.split("==") for line in constraints.splitlines() if "==" in line)
    pins.pop("hatchling")
    ours = {name: version.partition("+")[0] for name, version in found.items() if name in pins}
    assert ours == pins
    assert found.keys() - pins.keys() <= {"pip", "setuptools", "wheel"}
    for tool in BUILD_TOOLS:
        path = image.output("sh", "-c", f"command -v {tool} || true")
        assert path == "", path


def test_its_labels_say_what_it_is(image):
    labels = {
        name.rpartition(".")[2]: value for name, value in image.config["Labels"].items() if "opencontainers" in name
    }
    assert labels["version"] == "0.1.0"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == run(["git", "rev-parse", "HEAD"], cwd=ROOT)
    assert {"title", "description", "source", "documentation", "name"} <= labels.keys()
    assert image.config["User"] == "10001:10001"
