"""The compose files are what Docker, the server, Redis, Prometheus and HAProxy take."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from lookonce_server.settings import Settings, load_settings

from ..support.helm_chart import EXAMPLES, KEYS, Release
from ..support.redis_server import RedisServer
from ..support.snippets import ROOT

FOLDER = ROOT / "deploy" / "compose"
NAMES = ("compose", "replicas", "cuda")
PROMTOOL = os.environ.get("LOOKONCE_TEST_PROMTOOL") or shutil.which("promtool")
HAPROXY = os.environ.get("LOOKONCE_TEST_HAPROXY") or shutil.which("haproxy")


class Loader(yaml.SafeLoader):
    """YAML with compose's own tag for what a file takes away."""


Loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))


def compose(name: str) -> dict[str, Any]:
    """Read a file, its variables as they are by default."""
    text = (FOLDER / f"{name}.yaml").read_text()
    return yaml.load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text), Loader)  # noqa: S506


FILES = {name: compose(name) for name in NAMES}
SERVICES = [(name, key, service) for name, file in FILES.items() for key, service in file["services"].items()]
SERVER = FILES["compose"]["services"]["lookonce"]


def settings(server: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings with which a server would start."""
    for variable, value in {**SERVER["environment"], "LOOKONCE_HOST": "0.0.0.0"}.items():
        if value is not None:
            monkeypatch.setenv(variable, str(value).lower())
    name, *arguments = server["command"]
    assert name == "serve"
    return load_settings(arguments)


def test_the_compose_specifications_schema_takes_them(tmp_path):
    files = []
    for name, file in FILES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
        files.append(str(tmp_path / f"{name}.json"))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"services": {"lookonce": {"comand": []}}}))
    assert subprocess.run([*check, str(wrong)], capture_output=True, check=False).returncode == 1


def test_every_image_is_pinned_and_ours_are_the_charts():
    for name, key, service in SERVICES:
        if image := service.get("image"):
            assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", image), f"{name}: {key}: {image}"
    assert SERVER["image"] == Release(KEYS).container["image"]
    cuda = FILES["cuda"]["services"]["lookonce"]
    assert cuda["image"] == Release(EXAMPLES["gpu"]).container["image"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert cuda["build"]["args"]["BASE"] == f"vllm/vllm-openai:v{extras['vllm'][1].removeprefix('vllm==')}"


def test_what_is_mounted_and_built_is_there():
    build = SERVER["build"]
    paths = {FOLDER / build["context"], FOLDER / build["context"] / build["dockerfile"]}
    volumes = [volume.split(":")[0] for _, _, service in SERVICES for volume in service.get("volumes", ())]
    assert {volume for volume in volumes if "/" not in volume} == FILES["compose"]["volumes"].keys()
    paths |= {(FOLDER / volume).resolve() for volume in volumes if "/" in volume}
    assert len(paths) > 6
    missing = [path for path in paths if not path.exists()]
    if missing and not any((ROOT / "deploy" / name).exists() for name in ("grafana", "prometheus")):
        pytest.skip("this checkout has no dashboards and no rules")
    assert missing == []


def test_the_server_takes_its_command_and_environment(monkeypatch):
    plain = settings(SERVER, monkeypatch)
    assert plain.allow_anyone
    assert not plain.has_keys
    cuda = settings(FILES["cuda"]["services"]["lookonce"], monkeypatch)
    assert (plain.engine, cuda.engine) == ("transformers", "vllm")
    for each, server in ((plain, SERVER), (cuda, {**SERVER, **FILES["cuda"]["services"]["lookonce"]})):
        assert each.store.startswith("redis://redis:6379/0")
        assert float(server["stop_grace_period"].removesuffix("s")) >= each.shutdown_seconds + 30
    monkeypatch.setenv("LOOKONCE_ALLOW_ANYONE", "false")
    with pytest.raises(ValueError, match="there are no API keys"):
        load_settings([])


def test_ports_are_this_machines_alone_since_anyone_may_ask():
    for name, key, service in SERVICES:
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {key}: {port}"
    assert FILES["replicas"]["services"]["lookonce"]["ports"] == []


def test_the_server_may_write_where_the_chart_lets_it():
    assert SERVER["read_only"]
    assert SERVER["cap_drop"] == ["ALL"]
    assert SERVER["security_opt"] == ["no-new-privileges:true"]
    mounts = {mount["mountPath"] for mount in Release(KEYS).container["volumeMounts"] if not mount.get("readOnly")}
    assert {volume.split(":")[1] for volume in SERVER["volumes"]} | {*SERVER["tmpfs"], "/dev/shm"} == mounts  # noqa: S108


def test_redis_starts_with_its_arguments_and_keeps_what_is_used():
    redis = FILES["compose"]["services"]["redis"]
    program, *arguments = redis["command"]
    assert program == "redis-server"
    with RedisServer(arguments=arguments) as server, server.client() as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
        assert client.config_get("appendonly")["appendonly"] == "yes"
        limit = int(client.config_get("maxmemory")["maxmemory"])
    assert int(redis["mem_limit"].removesuffix("gb")) * 2**30 >= 1.25 * limit


def test_prometheus_finds_every_replica_and_grafana_prometheus():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["dns_sd_configs"][0]["names"] == ["lookonce"]
    mounts = {v.split(":")[1]: v for v in FILES["compose"]["services"]["prometheus"]["volumes"]}
    assert set(config["rule_files"]) <= mounts.keys()
    grafana = {v.split(":")[1] for v in FILES["compose"]["services"]["grafana"]["volumes"]}
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert provider["options"]["path"] in grafana
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="Prometheus is not installed")
def test_promtool_takes_the_configuration():
    run(PROMTOOL, "check", "config", "--syntax-only", FOLDER / "prometheus.yaml")


@pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")
def test_haproxy_takes_the_configuration():
    run(HAPROXY, "-c", "-f", FOLDER / "haproxy.cfg")
