"""The Dockerfile says what the chart, the Makefile and pyproject.toml say; `make test-image` builds and runs it."""

import re
import subprocess
import tomllib

from packaging.requirements import Requirement

from ..support.helm_chart import EXAMPLES, KEYS, Release
from ..support.snippets import ROOT

FOLDER = ROOT / "deploy" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (FOLDER / "constraints.txt").read_text().splitlines() if "==" in line)


def commands(*targets: str) -> str:
    """Return what make would run."""
    return subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_each_of_the_servers_packages_is_pinned_within_its_bounds():
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"]]
    for requirement in map(Requirement, required):
        assert PINS[requirement.name] in requirement.specifier, requirement
    assert "\n    pip install --no-cache-dir --constraint pins.txt --requirement requirements.txt" in DOCKERFILE


def test_its_bases_are_pinned():
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    (vllm,) = PROJECT["optional-dependencies"]["vllm"][1:]
    assert f"BASE=vllm/vllm-openai:v{vllm.removeprefix('vllm==')} " in commands("image-cuda")


def test_its_tags_are_those_of_the_chart():
    tags = re.findall(r"--tag (\S+)", commands("image", "image-cuda"))
    for tag, release in zip(tags, (Release(KEYS), Release(EXAMPLES["gpu"])), strict=True):
        assert tag == release.container["image"]
    assert f"ARG VERSION={PROJECT['version']}\n" in DOCKERFILE


def test_its_user_and_folders_are_those_of_the_chart():
    release = Release(KEYS)
    environment = dict(re.findall(r"^(?:ENV)? +(\w+)=(\S+)(?: \\)?$", DOCKERFILE, re.MULTILINE))
    folders = {"HF_HOME", "HF_MODULES_CACHE", "HOME", "XDG_CACHE_HOME", "USER"}
    for name in folders:
        assert environment[name] == release.environment[name], name
    pod = release.at("Deployment:spec:template:spec:securityContext")
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}\n" in DOCKERFILE
    mounts = {mount["mountPath"] for mount in release.container["volumeMounts"] if not mount.get("readOnly")}
    assert mounts == {"/tmp", "/cache", "/models", "/dev/shm"}  # noqa: S108
    assert "mkdir /cache /models" in DOCKERFILE


def test_the_context_has_what_the_image_is_built_from_and_no_more():
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {package.rpartition("/")[0] for package in packages["packages"]} <= taken
    assert all((ROOT / name).exists() for name in taken)
    assert not taken & {"tests", "docs", "deploy", ".git"}
