"""The Helm chart, rendered by Helm itself."""

import difflib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import yaml

from .snippets import ROOT

CHART = ROOT / "deploy" / "helm" / "lookonce"
EXAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "examples").glob("*.yaml"))}
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
KEYS = {"apiKeys": {"existingSecret": "lookonce-keys"}}
REDIS = {"store": {"existingSecret": "lookonce-store"}}
REDIS_URL = "redis://:secret@redis:6379/0?hot_bytes=1GiB"


class Release:
    """What the chart makes of some values.

    Args:
        values: beside the chart's own.
        chart: folder of the chart.
    """

    def __init__(self, values: dict[str, Any], chart: Path = CHART) -> None:
        with _loaded(chart) as loaded:
            rendered = loaded.render(values, name="vision", namespace="ai")
        self.notes = rendered.pop("lookonce/templates/NOTES.txt")
        self.manifests = [m for text in rendered.values() for m in yaml.safe_load_all(text) if m]

    @property
    def kinds(self) -> list[str]:
        """The kinds of what is made, in the alphabet's order."""
        return sorted(manifest["kind"] for manifest in self.manifests)

    def at(self, path: str) -> Any:
        """Return what is at a path, as `Deployment:spec:replicas`, or None; `env:NAME` is a variable's value."""
        if path == "notes":
            return self.notes
        kind, *keys = path.split(":")
        if kind == "env":
            return self.environment.get(keys[0])
        found: Any = next((m for m in self.manifests if m["kind"] == kind), None)
        for key in keys:
            if isinstance(found, list):
                found = found[int(key)] if int(key) < len(found) else None
            else:
                found = (found or {}).get(key)
        return found

    @property
    def container(self) -> dict[str, Any]:
        """The server's container."""
        (container,) = self.at("Deployment:spec:template:spec:containers")
        return container

    @property
    def environment(self) -> dict[str, Any]:
        """The container's variables; one from a Secret is `secret/key`."""
        found = {}
        for variable in self.container["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            found[variable["name"]] = f"{reference['name']}/{reference['key']}" if reference else variable["value"]
        return found


def _loaded(chart: Path) -> helm_python.Chart:
    return helm_python.Chart.load(chart)


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return values with more of them put over, as Helm does."""
    result = dict(values)
    for key, value in more.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return the values in which one leaf is set."""
    return functools.reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Return the paths of all values; an empty object is one."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def deployment_diff(before: str, after: str) -> str:
    """Return how an example's Deployment differs from another example's, as docs/kubernetes.md shows it."""
    old, new = (yaml.safe_dump(Release(EXAMPLES[name]).at("Deployment:spec")).splitlines() for name in (before, after))
    lines = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]
    return "\n".join(line for line in lines if not line.startswith("@@"))
