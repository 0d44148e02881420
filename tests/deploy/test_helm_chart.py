"""The Helm chart is what Kubernetes and the server take."""

import json
import re
import shutil
import tomllib

import helm_python
import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from lookonce_server import process, signals
from lookonce_server.http.routes.operations import router
from lookonce_server.server import Server
from lookonce_server.settings import Settings, load_settings

from ..support.helm_chart import (
    CHART,
    EXAMPLES,
    KEYS,
    REDIS,
    REDIS_URL,
    SCHEMA,
    VALUES,
    Release,
    deployment_diff,
    merged,
)
from ..support.snippets import ROOT, snippets

PAGE = ROOT / "docs" / "kubernetes.md"
METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text())
LOWEST = re.search(r"\d+\.\d+", METADATA["kubeVersion"])[0]
VERSIONS = (LOWEST, "1.34", "1.37")
CUSTOM = {"HTTPRoute", "InferencePool", "PrometheusRule", "ScaledObject", "ServiceMonitor"}  # not of Kubernetes itself
EVERYTHING = merged(
    EXAMPLES["gpu"],
    {
        "autoscaling": {"kind": "HorizontalPodAutoscaler", "maxReplicas": 4},
        "prometheusRule": {"enabled": True},
        "modelCache": {"accessMode": "ReadWriteMany"},
        "dashboards": {"enabled": True},
        "extraEnv": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
        "extraVolumes": [{"name": "m", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "m", "mountPath": "/m"}],
        "imagePullSecrets": [{"name": "registry"}],
        "networkPolicy": {"extraEgress": [{"ports": [{"port": 4317}]}]},
        "ingress": EXAMPLES["tenants"]["ingress"],
    },
)
# What has no default of its own.
SAMPLES = {
    "served_name": "vision",
    "tool_call_parser": "hermes",
    "profile": "none",
    "max_ttl": 60,
    "mode": "describe_first",
    "on_miss": "compress",
    "allowed_origins": "https://a.example",
    "max_concurrent_per_tenant": 4,
    "requests_per_minute": 60,
    "otlp_endpoint": "http://collector:4318",
}


def test_the_charts_app_is_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert METADATA["appVersion"] == METADATA["version"] == version
    assert Release(KEYS).container["image"] == f"lookonce/lookonce:{version}"
    tags = [values["image"]["tag"] for values in EXAMPLES.values() if "image" in values]
    assert set(tags) == {f"{version}-cuda"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_finds_nothing_to_blame(name):
    report = helm_python.lint(CHART, EXAMPLES[name], strict=True, kube_version=f"v{LOWEST}.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_what_the_chart_makes(version):
    for values in (*EXAMPLES.values(), EVERYTHING):
        for manifest in Release(values).manifests:
            if manifest["kind"] in CUSTOM:
                with pytest.raises(kubernetes_validate.SchemaNotFoundError):
                    kubernetes_validate.validate(manifest, version, strict=True)
            else:
                kubernetes_validate.validate(manifest, version, strict=True)


def test_names_stay_within_kubernetes_63_characters():
    release = Release(merged(EVERYTHING, {"fullnameOverride": "n" * 80}))
    assert max(len(manifest["metadata"]["name"]) for manifest in release.manifests) <= 63


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_server_takes_the_environment(name, monkeypatch):
    settings = server_settings(Release(EXAMPLES[name]), monkeypatch)
    values = merged(VALUES, EXAMPLES[name])
    assert (settings.model, settings.engine, settings.vllm) == (values["model"], values["engine"], values["vllm"])
    assert settings.shutdown_seconds == values["longestAnswerSeconds"]
    assert settings.has_keys != settings.allow_anyone
    assert settings.store == (REDIS_URL if "store" in EXAMPLES[name] else "memory://?max_bytes=2GiB")
    assert {name: getattr(settings, name) for name in values["settings"]} == values["settings"]


def test_the_server_takes_every_setting_of_the_schema(monkeypatch):
    properties = Settings.model_json_schema()["properties"]
    given = {name: properties[name]["default"] for name in SCHEMA["properties"]["settings"]["properties"]}
    assert {name for name, value in given.items() if value is None} == SAMPLES.keys()
    given.update(SAMPLES)
    given.update(image_hosts=["a.example", "*.b.example"], max_image_bytes=16777216, keep_images=True)
    settings = server_settings(Release(merged(KEYS, {"engine": "vllm", "settings": given})), monkeypatch)
    for name, value in given.items():
        found = getattr(settings, name)
        assert (list(found) if isinstance(found, tuple) else found) == value, name


def server_settings(release: Release, monkeypatch) -> Settings:
    """Return what the server reads from a release's container, with a Redis' URL for the Secret's."""
    command, *arguments = release.container["command"]
    assert (command, arguments) == ("lookonce", ["serve"])
    for name, value in release.environment.items():
        if name.startswith("LOOKONCE_"):
            monkeypatch.setenv(name, REDIS_URL if value == "lookonce-store/url" else value)
    return load_settings(arguments[1:])


def test_a_service_of_our_name_does_not_become_the_servers_port(monkeypatch):
    assert Release(KEYS).at("Deployment:spec:template:spec:enableServiceLinks") is False
    monkeypatch.setenv("LOOKONCE_PORT", "tcp://10.0.0.1:80")  # as Kubernetes would
    with pytest.raises(ValidationError, match="port"):
        load_settings([])


def test_probes_ask_what_the_server_answers():
    container = Release(KEYS).container
    routes = {route.path for route in router.routes}
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/health",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }
    assert {*(probe["path"] for probe in probes.values()), "/metrics"} <= routes
    (port,) = container["ports"]
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert str(port["containerPort"]) == Release(KEYS).environment["LOOKONCE_PORT"]
    startup = container["startupProbe"]
    assert (startup["periodSeconds"], startup["failureThreshold"]) == (10, 180)
    assert Release(KEYS).at("Deployment:spec:progressDeadlineSeconds") > 1800


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pod_has_time_for_its_longest_answer_and_for_its_end(name):
    release = Release(EXAMPLES[name])
    drain = release.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    answer = int(release.environment["LOOKONCE_SHUTDOWN_SECONDS"])
    end = process._CLOSE_SECONDS + Server.failure_seconds + signals._EXIT_SECONDS
    assert release.at("Deployment:spec:template:spec:terminationGracePeriodSeconds") >= drain + answer + end


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pod_may_do_nothing_that_it_need_not(name):
    release = Release(EXAMPLES[name])
    pod = release.at("Deployment:spec:template:spec")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert release.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert release.at("ServiceAccount:automountServiceAccountToken") is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_what_the_server_writes_is_in_volumes():
    release = Release(merged(KEYS, {"engine": "vllm"}))
    mounts = {mount["mountPath"]: mount["name"] for mount in release.container["volumeMounts"]}
    folders = [release.environment[name] for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "LOOKONCE_HANDOVER_DIR")]
    assert {*folders, "/tmp"} <= mounts.keys()  # noqa: S108 - of the container
    volumes = {volume["name"] for volume in release.at("Deployment:spec:template:spec:volumes")}
    assert set(mounts.values()) == volumes


def test_secrets_are_referred_to_and_nowhere_written():
    release = Release(merged(EXAMPLES["gpu"], {"dashboards": {"enabled": True}}))
    assert [release.environment[name] for name in ("LOOKONCE_STORE", "HF_TOKEN")] == [
        "lookonce-store/url",
        "hugging-face/token",
    ]
    assert release.environment["LOOKONCE_API_KEYS"] == "/etc/lookonce/keys.toml"
    assert "args" not in release.container
    assert "Secret" not in release.kinds
    assert all("LOOKONCE_" not in json.dumps(m) for m in release.manifests if m["kind"] == "ConfigMap")


def test_each_file_of_dashboards_becomes_a_config_map_as_it_is(tmp_path):
    chart = shutil.copytree(CHART, tmp_path / "lookonce")
    text = '{"title": "another", "legend": "{{pod}}"}\n'
    (chart / "dashboards" / "another.json").write_text(text)
    release = Release(merged(KEYS, {"dashboards": {"enabled": True}}), chart)
    maps = {m["metadata"]["name"]: m["data"] for m in release.manifests if m["kind"] == "ConfigMap"}
    assert maps["vision-lookonce-another"]["another.json"] == text.rstrip("\n")
    assert len(maps) == len(list((chart / "dashboards").glob("*.json")))


def test_only_the_interface_is_open_to_strangers():
    for kind, key in (("ingress", "paths"), ("httpRoute", "paths")):
        assert VALUES[kind][key] == ["/v1"]  # not /metrics, /health and /docs
    egress = Release(merged(KEYS, REDIS)).at("NetworkPolicy:spec:egress")
    assert [rule["ports"][0]["port"] for rule in egress] == [53, 6379, 443]


def test_the_package_has_no_examples(tmp_path):
    archive = helm_python.package(CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as chart:
        files = [file["name"] for file in chart.files]
        assert chart.schema == SCHEMA
    assert {"rules.yaml", "dashboards/overview.json", "dashboards/contexts.json", "dashboards/tenants.json"} <= set(
        files
    )
    assert not [name for name in files if name.startswith("examples/")]


def test_the_docs_show_what_the_examples_make():
    text = PAGE.read_text()
    for name, values in EXAMPLES.items():
        kinds = ", ".join(kind for kind in Release(values).kinds)
        assert re.search(rf"^\| \[`{name}.yaml`\]\(.+?\) \| .+ \| {re.escape(kinds)} \|$", text, re.MULTILINE), kinds
    shown = [snippet.text.rstrip("\n") for snippet in snippets(PAGE) if snippet.language == "diff"]
    assert shown == [deployment_diff("cpu", "tenants"), deployment_diff("cpu", "gpu"), deployment_diff("gpu", "keda")]


def test_the_docs_commands_install_what_renders():
    commands = [command for snippet in snippets(PAGE) for command in snippet.commands if command.startswith("helm ")]
    assert len(commands) == 2
    for command in commands:
        values = {}
        for file in re.findall(r"--values (\S+)", command):
            values = merged(values, yaml.safe_load((ROOT / file).read_text()))
        for pair in re.findall(r"--set (\S+)", command):
            values = merged(values, helm_python.parse_set_string(pair))
        assert "deploy/helm/lookonce " in f"{command} "
        Release(values)
