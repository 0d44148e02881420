"""Each value of the chart has an effect, and its schema says which are accepted."""

from typing import Any, NamedTuple

import helm_python
import pytest

from lookonce_server.engines.vllm import options
from lookonce_server.settings import Settings

from ..support.helm_chart import KEYS, REDIS, SCHEMA, VALUES, Release, leaves, merged, nested

POD = "Deployment:spec:template:spec"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - of a container
BOX = f"{POD}:containers:0"
TARGET = "spec:metrics:0:pods:target:averageValue"
TRIGGER = "ScaledObject:spec:triggers:1:metadata"
RULES = "PrometheusRule:spec:groups:1:rules"
PEER = [{"podSelector": {"matchLabels": {"app": "proxy"}}}]
HPA = {"autoscaling": {"kind": "HorizontalPodAutoscaler"}, "prometheusRule": {"enabled": True}, **REDIS}
KEDA = {"autoscaling": {"kind": "ScaledObject"}, **REDIS}
INGRESS = {"ingress": {"enabled": True, "hosts": ["a.example"]}}
ROUTE = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
POOL = {"inferencePool": {"enabled": True}}
PVC = "PersistentVolumeClaim:spec"
PERSISTENT = {"persistent": True}
CLAIM = {"modelCache": PERSISTENT}
MONITOR = {"serviceMonitor": {"enabled": True}}
ALERTS = {"prometheusRule": {"enabled": True}}
BOARDS = {"dashboards": {"enabled": True}}
PATH = "spec:rules:0:http:paths:0:path"


class Turn(NamedTuple):
    """A value other than the chart's own, and what follows from it."""

    value: Any
    path: str  # of the manifest, as `Release.at` takes it
    expected: Any  # there; a function tells whether it is right
    base: dict[str, Any] | None = None  # what it needs


def has(*texts: str) -> Any:
    """Tell whether all texts are in a text."""
    return lambda found: found is not None and all(text in found for text in texts)


TURNS = {
    "nameOverride": Turn("other", "Deployment:metadata:name", "vision-other"),
    "fullnameOverride": Turn("other", "Service:metadata:name", "other"),
    "image.repository": Turn("mirror.example/lookonce", f"{BOX}:image", has("mirror.example/lookonce:")),
    "image.tag": Turn("0.1.0-cuda", f"{BOX}:image", "lookonce/lookonce:0.1.0-cuda"),
    "image.digest": Turn(f"sha256:{'0' * 64}", f"{BOX}:image", f"lookonce/lookonce@sha256:{'0' * 64}"),
    "image.pullPolicy": Turn("Always", f"{BOX}:imagePullPolicy", "Always"),
    "imagePullSecrets": Turn([{"name": "registry"}], f"{POD}:imagePullSecrets", [{"name": "registry"}]),
    "replicaCount": Turn(3, "Deployment:spec:replicas", 3, REDIS),
    "model": Turn("org/name", "env:LOOKONCE_MODEL", "org/name"),
    "engine": Turn("vllm", "env:LOOKONCE_ENGINE", "vllm"),
    "vllm": Turn({"max_model_len": 8192}, "env:LOOKONCE_VLLM", '{"max_model_len":8192}', {"engine": "vllm"}),
    "settings.log_format": Turn("text", "env:LOOKONCE_LOG_FORMAT", "text"),
    "hubToken.existingSecret": Turn("hub", "env:HF_TOKEN", "hub/token"),
    "hubToken.key": Turn("other", "env:HF_TOKEN", "hub/other", {"hubToken": {"existingSecret": "hub"}}),
    "store.existingSecret": Turn("redis", "env:LOOKONCE_STORE", "redis/url"),
    "store.key": Turn("other", "env:LOOKONCE_STORE", "lookonce-store/other", REDIS),
    "store.maxBytes": Turn("1GiB", "env:LOOKONCE_STORE", "memory://?max_bytes=1GiB"),
    "apiKeys.existingSecret": Turn("keys", f"{POD}:volumes:4:secret:secretName", "keys"),
    "apiKeys.key": Turn("other", f"{POD}:volumes:4:secret:items:0", {"key": "other", "path": "keys.toml"}),
    "allowAnyone": Turn(True, "env:LOOKONCE_ALLOW_ANYONE", "true", {"apiKeys": {"existingSecret": ""}}),
    "host": Turn("::", "env:LOOKONCE_HOST", "::"),
    "longestAnswerSeconds": Turn(600, "env:LOOKONCE_SHUTDOWN_SECONDS", "600"),
    "drainSeconds": Turn(15, f"{BOX}:lifecycle:preStop:sleep:seconds", 15),
    "gpus.count": Turn(2, f"{BOX}:resources:limits:nvidia.com/gpu", 2),
    "gpus.resource": Turn("amd.com/gpu", f"{BOX}:resources:limits:amd.com/gpu", 1, {"gpus": {"count": 1}}),
    "resources.requests.cpu": Turn("8", f"{BOX}:resources:requests:cpu", "8"),
    "resources.requests.memory": Turn("6Gi", f"{BOX}:resources:requests:memory", "6Gi"),
    "resources.limits.memory": Turn("16Gi", f"{BOX}:resources:limits:memory", "16Gi"),
    "modelCache.size": Turn("9Gi", f"{POD}:volumes:2:emptyDir:sizeLimit", "9Gi"),
    "modelCache.persistent": Turn(True, f"{POD}:volumes:2:persistentVolumeClaim:claimName", "vision-lookonce-models"),
    "modelCache.existingClaim": Turn("mine", f"{POD}:volumes:2:persistentVolumeClaim:claimName", "mine"),
    "modelCache.storageClassName": Turn("fast", "PersistentVolumeClaim:spec:storageClassName", "fast", CLAIM),
    "modelCache.accessMode": Turn("ReadWriteOnce", "PersistentVolumeClaim:spec:accessModes", ["ReadWriteOnce"], CLAIM),
    "scratch.tmp": Turn("9Gi", f"{POD}:volumes:0:emptyDir:sizeLimit", "9Gi"),
    "scratch.cache": Turn("9Gi", f"{POD}:volumes:1:emptyDir:sizeLimit", "9Gi"),
    "scratch.sharedMemory": Turn("9Gi", f"{POD}:volumes:3:emptyDir", {"medium": "Memory", "sizeLimit": "9Gi"}),
    "probes.startup.periodSeconds": Turn(20, "Deployment:spec:progressDeadlineSeconds", 3900),
    "probes.startup.failureThreshold": Turn(9, f"{BOX}:startupProbe:failureThreshold", 9),
    "probes.readiness.periodSeconds": Turn(9, f"{BOX}:readinessProbe:periodSeconds", 9),
    "probes.readiness.timeoutSeconds": Turn(9, f"{BOX}:readinessProbe:timeoutSeconds", 9),
    "probes.readiness.failureThreshold": Turn(9, f"{BOX}:readinessProbe:failureThreshold", 9),
    "probes.liveness.periodSeconds": Turn(9, f"{BOX}:livenessProbe:periodSeconds", 9),
    "probes.liveness.timeoutSeconds": Turn(9, f"{BOX}:livenessProbe:timeoutSeconds", 9),
    "probes.liveness.failureThreshold": Turn(9, f"{BOX}:livenessProbe:failureThreshold", 9),
    "strategy.maxSurge": Turn("25%", "Deployment:spec:strategy:rollingUpdate:maxSurge", "25%"),
    "strategy.maxUnavailable": Turn(1, "Deployment:spec:strategy:rollingUpdate:maxUnavailable", 1),
    "podDisruptionBudget.enabled": Turn(False, "PodDisruptionBudget", None),
    "podDisruptionBudget.maxUnavailable": Turn(2, "PodDisruptionBudget:spec:maxUnavailable", 2),
    "topologySpread.keys": Turn(["rack"], f"{POD}:topologySpreadConstraints:0:topologyKey", "rack"),
    "topologySpread.maxSkew": Turn(2, f"{POD}:topologySpreadConstraints:1:maxSkew", 2),
    "topologySpread.whenUnsatisfiable": Turn(
        "DoNotSchedule", f"{POD}:topologySpreadConstraints:0:whenUnsatisfiable", "DoNotSchedule"
    ),
    "nodeSelector": Turn({"gpu": "a100"}, f"{POD}:nodeSelector", {"gpu": "a100"}),
    "tolerations": Turn([{"operator": "Exists"}], f"{POD}:tolerations", [{"operator": "Exists"}]),
    "affinity": Turn({"nodeAffinity": {}}, f"{POD}:affinity", {"nodeAffinity": {}}),
    "priorityClassName": Turn("high", f"{POD}:priorityClassName", "high"),
    "runtimeClassName": Turn("nvidia", f"{POD}:runtimeClassName", "nvidia"),
    "podLabels": Turn({"team": "vision"}, "Deployment:spec:template:metadata:labels:team", "vision"),
    "podAnnotations": Turn({"a": "b"}, "Deployment:spec:template:metadata:annotations", {"a": "b"}),
    "extraEnv": Turn([{"name": "HF_HUB_OFFLINE", "value": "1"}], "env:HF_HUB_OFFLINE", "1"),
    "extraVolumes": Turn([{"name": "m", "emptyDir": {}}], f"{POD}:volumes:5", {"name": "m", "emptyDir": {}}),
    "extraVolumeMounts": Turn(
        [{"name": "m", "mountPath": "/m"}], f"{BOX}:volumeMounts:5", {"name": "m", "mountPath": "/m"}
    ),
    "securityContext.runAsUser": Turn(None, f"{POD}:securityContext:runAsUser", None),
    "securityContext.runAsGroup": Turn(2000, f"{POD}:securityContext:runAsGroup", 2000),
    "securityContext.fsGroup": Turn(2000, f"{POD}:securityContext:fsGroup", 2000),
    "serviceAccount.create": Turn(False, "ServiceAccount", None),
    "serviceAccount.name": Turn("mine", f"{POD}:serviceAccountName", "mine"),
    "serviceAccount.annotations": Turn({"a": "b"}, "ServiceAccount:metadata:annotations", {"a": "b"}),
    "service.type": Turn("LoadBalancer", "Service:spec:type", "LoadBalancer"),
    "service.port": Turn(8080, "Service:spec:ports:0:port", 8080),
    "service.annotations": Turn({"a": "b"}, "Service:metadata:annotations", {"a": "b"}),
    "networkPolicy.enabled": Turn(False, "NetworkPolicy", None),
    "networkPolicy.from": Turn(PEER, "NetworkPolicy:spec:ingress:0:from", PEER),
    "networkPolicy.redisPorts": Turn([6380], "NetworkPolicy:spec:egress:1:ports", [{"port": 6380}], REDIS),
    "networkPolicy.https": Turn(False, "NetworkPolicy:spec:egress:1", None),
    "networkPolicy.extraEgress": Turn([{"to": PEER}], "NetworkPolicy:spec:egress:2", {"to": PEER}),
    "ingress.enabled": Turn(True, "Ingress:spec:rules:0:host", "a.example", {"ingress": {"hosts": ["a.example"]}}),
    "ingress.className": Turn("nginx", "Ingress:spec:ingressClassName", "nginx", INGRESS),
    "ingress.annotations": Turn({"a": "b"}, "Ingress:metadata:annotations", {"a": "b"}, INGRESS),
    "ingress.hosts": Turn(["b.example"], "Ingress:spec:rules:0:host", "b.example", INGRESS),
    "ingress.paths": Turn(["/vision"], f"Ingress:{PATH}", "/vision", INGRESS),
    "ingress.tlsSecret": Turn("tls", "Ingress:spec:tls", [{"secretName": "tls", "hosts": ["a.example"]}], INGRESS),
    "httpRoute.enabled": Turn(
        True, "HTTPRoute:spec:parentRefs:0:name", "public", {"httpRoute": {"parentRefs": [{"name": "public"}]}}
    ),
    "httpRoute.parentRefs": Turn([{"name": "inner"}], "HTTPRoute:spec:parentRefs:0:name", "inner", ROUTE),
    "httpRoute.hostnames": Turn(["a.example"], "HTTPRoute:spec:hostnames", ["a.example"], ROUTE),
    "httpRoute.paths": Turn(["/"], "HTTPRoute:spec:rules:0:matches:0:path:value", "/", ROUTE),
    "inferencePool.enabled": Turn(True, "HTTPRoute:spec:rules:0:backendRefs:0:kind", "InferencePool", ROUTE),
    "inferencePool.endpointPicker.service": Turn("p", "InferencePool:spec:endpointPickerRef:name", "p", POOL),
    "inferencePool.endpointPicker.port": Turn(9, "InferencePool:spec:endpointPickerRef:port:number", 9, POOL),
    "inferencePool.endpointPicker.failureMode": Turn(
        "FailClose", "InferencePool:spec:endpointPickerRef:failureMode", "FailClose", POOL
    ),
    "autoscaling.kind": Turn("ScaledObject", "ScaledObject:spec:scaleTargetRef:name", "vision-lookonce", REDIS),
    "autoscaling.minReplicas": Turn(2, "HorizontalPodAutoscaler:spec:minReplicas", 2, HPA),
    "autoscaling.maxReplicas": Turn(9, "ScaledObject:spec:maxReplicaCount", 9, KEDA),
    "autoscaling.requests": Turn(32, "ScaledObject:spec:triggers:0:metadata:threshold", "32", KEDA),
    "autoscaling.firstTokenSeconds": Turn(0.5, f"{TRIGGER}:threshold", "0.5", KEDA),
    "autoscaling.scaleDownSeconds": Turn(
        60, "HorizontalPodAutoscaler:spec:behavior:scaleDown:stabilizationWindowSeconds", 60, HPA
    ),
    "autoscaling.prometheusUrl": Turn(
        "http://p", "ScaledObject:spec:triggers:1:metadata:serverAddress", "http://p", KEDA
    ),
    "serviceMonitor.enabled": Turn(True, "ServiceMonitor:spec:endpoints:0:path", "/metrics"),
    "serviceMonitor.interval": Turn("5s", "ServiceMonitor:spec:endpoints:0:interval", "5s", MONITOR),
    "serviceMonitor.labels": Turn({"release": "p"}, "ServiceMonitor:metadata:labels:release", "p", MONITOR),
    "prometheusRule.enabled": Turn(True, f"{RULES}:0:alert", "LookonceErrors"),
    "prometheusRule.labels": Turn({"release": "p"}, "PrometheusRule:metadata:labels:release", "p", ALERTS),
    "prometheusRule.errorRatio": Turn(0.25, f"{RULES}:0:expr", has("> 0.25 #"), ALERTS),
    "prometheusRule.firstTokenSeconds": Turn(0.75, f"{RULES}:1:expr", has("> 0.75 #"), ALERTS),
    "prometheusRule.hitRatio": Turn(0.5, f"{RULES}:2:expr", has("< 0.5 #"), ALERTS),
    "prometheusRule.waitingRequests": Turn(99, f"{RULES}:4:expr", has("> 99 #"), ALERTS),
    "prometheusRule.memoryRatio": Turn(0.5, f"{RULES}:7:expr", has("> 0.5 #"), ALERTS),
    "dashboards.enabled": Turn(True, "ConfigMap:metadata:name", "vision-lookonce-contexts"),
    "dashboards.labels.grafana_dashboard": Turn("2", "ConfigMap:metadata:labels:grafana_dashboard", "2", BOARDS),
    "dashboards.annotations": Turn({"folder": "x"}, "ConfigMap:metadata:annotations", {"folder": "x"}, BOARDS),
}


def test_each_value_has_a_turn_and_each_turn_its_effect():
    assert sorted(TURNS) == sorted(leaves(VALUES))
    bases: dict[str, Release] = {}
    for name, turn in TURNS.items():
        base = merged(KEYS, turn.base or {})
        before = None
        if name != "allowAnyone":  # the chart refuses that nobody may ask
            if str(base) not in bases:
                bases[str(base)] = Release(base)
            before = bases[str(base)].at(turn.path)
        after = Release(merged(base, nested(name, turn.value))).at(turn.path)
        is_right = turn.expected(after) if callable(turn.expected) else after == turn.expected
        assert is_right, f"{name}: {turn.path} is {after!r}"
        assert before != after, f"{name}: {turn.path} was that before"


# What a value changes in a second place.
@pytest.mark.parametrize(
    ("values", "path", "expected"),
    [
        ({"longestAnswerSeconds": 600}, f"{POD}:terminationGracePeriodSeconds", 635),
        ({"drainSeconds": 15}, f"{POD}:terminationGracePeriodSeconds", 345),
        (merged(ROUTE, {"longestAnswerSeconds": 600}), "HTTPRoute:spec:rules:0:timeouts:request", "600s"),
        ({"modelCache": {"persistent": True, "size": "9Gi"}}, f"{PVC}:resources:requests:storage", "9Gi"),
        (merged(CLAIM, {"modelCache": {"existingClaim": "mine"}}), "PersistentVolumeClaim", None),
        ({"engine": "vllm"}, "env:LOOKONCE_HANDOVER_DIR", SHARED_MEMORY),
        (KEDA, "Deployment:spec:replicas", None),
        (HPA, "Deployment:spec:replicas", None),
        (merged(HPA, {"autoscaling": {"requests": 3}}), f"HorizontalPodAutoscaler:{TARGET}", "3"),
        (POOL, "Deployment:spec:template:metadata:labels:llm-d.ai/engine-type", "lookonce"),
        (merged(POOL, {"engine": "vllm"}), "Deployment:spec:template:metadata:labels:llm-d.ai/engine-type", "vllm"),
        ({"serviceAccount": {"create": False}}, f"{POD}:serviceAccountName", "default"),
        ({"service": {"port": 8080}}, "notes", has("svc:8080/v1")),
    ],
)  # fmt: skip
def test_a_value_reaches_all_its_places(values, path, expected):
    found = Release(merged(KEYS, values)).at(path)
    assert expected(found) if callable(expected) else found == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"apiKeys": {"existingSecret": ""}}, "Nobody may ask"),
        ({"allowAnyone": True}, "give one of them"),
        ({"replicaCount": 2}, "Several replicas need a Redis"),
        ({"autoscaling": {"kind": "ScaledObject"}}, "Several replicas need a Redis"),
        ({**REDIS, "replicaCount": 2, "modelCache": {**PERSISTENT, "accessMode": "ReadWriteOnce"}}, "ReadWriteMany"),
        ({**REDIS, "autoscaling": {"kind": "HorizontalPodAutoscaler"}}, "prometheusRule.enabled"),
        (merged(KEDA, {"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}), "less than"),
        ({"strategy": {"maxSurge": 0}}, "both 0"),
        ({"replicaCount": 0}, "/replicaCount"),
        ({"replicas": 2}, "replicas"),
        ({"engine": "tgi"}, "/engine"),
        ({"vllm": {"max_model_len": 8192}}, "/engine"),
        ({"engine": "vllm", "vllm": {"model": "other"}}, "propertyName 'model'"),
        ({"engine": "vllm", "vllm": {"hf_token": "hf_x"}}, "propertyName 'hf_token'"),
        ({"engine": "vllm", "vllm": {"max-model-len": 1}}, "propertyName 'max-model-len'"),
        ({"settings": {"retension": 0.1}}, "retension"),
        ({"settings": {"retention": 2}}, "/settings/retention"),
        ({"settings": {"on_miss": "describe"}}, "/settings/on_miss"),
        ({"settings": {"max_queue": "many"}}, "/settings/max_queue"),
        ({"settings": {"store": "redis://:secret@redis"}}, "store"),
        ({"settings": {"api_key_hashes": "acme=sha256:0"}}, "api_key_hashes"),
        ({"extraEnv": [{"name": "LOOKONCE_STORE", "value": "redis://:secret@redis"}]}, "/extraEnv/0/name"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"drainSeconds": 0}, "/drainSeconds"),
        ({"longestAnswerSeconds": "5m"}, "/longestAnswerSeconds"),
        ({"gpus": {"count": -1}}, "/gpus/count"),
        ({"scratch": {"tmp": "much"}}, "/scratch/tmp"),
        ({"store": {"maxBytes": "2Gi"}}, "/store/maxBytes"),
        ({"securityContext": {"runAsUser": 0}}, "/securityContext/runAsUser"),
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "app.kubernetes.io/name"),
        ({"service": {"port": 70000}}, "/service/port"),
        ({"ingress": {"enabled": True}}, "/ingress/hosts"),
        ({"ingress": {"paths": ["v1"]}}, "/ingress/paths/0"),
        ({"httpRoute": {"enabled": True}}, "/httpRoute/parentRefs"),
        ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
        ({"prometheusRule": {"errorRatio": 5}}, "/prometheusRule/errorRatio"),
    ],
)  # fmt: skip
def test_values_that_are_wrong_are_refused_by_name(values, message):
    with pytest.raises(helm_python.HelmError) as error:
        Release(merged(KEYS, values))
    assert message in str(error.value)
    assert "secret@" not in str(error.value)


def test_the_schema_knows_the_values_and_no_other():
    def compare(schema: dict[str, Any], values: dict[str, Any], where: str) -> None:
        assert schema["additionalProperties"] is False, where
        assert sorted(schema["properties"].keys() - {"global"}) == sorted(values), where
        for name, inner in schema["properties"].items():
            if "properties" in inner and name not in ("global", "settings"):
                compare(inner, values[name], f"{where}.{name}")

    # Kubernetes' own, and what may be any map, are no further looked into.
    values = merged(VALUES, {"resources": {"requests": {}, "limits": {}}})
    compare(SCHEMA, values, "values")


# Settings that the chart gives itself, or that are secrets.
GIVEN = {"model", "engine", "vllm", "handover_dir", "host", "port", "shutdown_seconds"}
GIVEN |= {"store", "api_keys", "api_key_hashes", "allow_anyone"}


def test_the_schema_has_each_setting_of_the_server_as_the_server_takes_it():
    schema = SCHEMA["properties"]["settings"]
    assert schema["additionalProperties"] is False
    server = Settings.model_json_schema()["properties"]
    assert set(schema["properties"]) == server.keys() - GIVEN
    for name, found in schema["properties"].items():
        setting = server[name]
        kind = next((option for option in setting.get("anyOf", []) if option["type"] != "null"), setting)
        expected = {key: value for key, value in kind.items() if key not in ("title", "default", "format")}
        assert found == {**expected, "description": setting["description"]}, name


def test_the_schema_refuses_the_options_of_vllm_that_are_not_its_own():
    refused = SCHEMA["properties"]["vllm"]["propertyNames"]["not"]["enum"]
    assert set(refused) == {*options._OURS, "hf_token"}
