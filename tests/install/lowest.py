"""Build pip constraints that hold each dependency of the server at the lowest version pyproject.toml accepts."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def lowest(pyproject: Path = PYPROJECT) -> list[str]:
    """Return "name==version" of every dependency of the base install and of the extra `server`.

    Raises:
        ValueError: one has no lower bound, or no upper one.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    return [
        _lowest(Requirement(text)) for text in [*project["dependencies"], *project["optional-dependencies"]["server"]]
    ]


def _lowest(requirement: Requirement) -> str:
    bounds = {bound.operator: bound.version for bound in requirement.specifier}
    lower = bounds.get(">=") or bounds.get("==")
    if lower is None or not bounds.keys() & {"<", "=="}:
        raise ValueError(f"{requirement}: expected a lower and an upper bound")
    return f"{requirement.name}=={Version(lower)}"
