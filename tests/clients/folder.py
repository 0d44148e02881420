"""Where clients run, each in a process of its own."""

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from ..support.server_process import environment

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
PAGE = (DOCS / "integrations.md").read_text()
DOCUMENTED_URL = "http://127.0.0.1:8000"
TEXT = "Find the red circle."  # of which the model is certain: some clients send a temperature


@pytest.fixture(scope="session")
def clients_python() -> str:
    """The interpreter that has the clients."""
    path = os.environ.get("LOOKONCE_TEST_CLIENTS_PYTHON")
    if not path:
        pytest.skip("LOOKONCE_TEST_CLIENTS_PYTHON names no interpreter that has tests/clients/requirements.txt")
    return path


class Folder(NamedTuple):
    """Where a client runs: with a picture, the settings of `llm`, and nothing of whoever runs the tests."""

    path: Path
    url: str

    def run(self, *command: str, **more: str) -> str:
        """What a command prints; it must succeed."""
        env = {k: v for k, v in environment().items() if k != "PYTHONPATH"} | {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LLM_USER_PATH": str(self.path),
            **more,
        }
        done = subprocess.run(command, cwd=self.path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def documented(self, client: str, language: str) -> str:
        """The page's snippet for a client, for this server."""
        section = PAGE.split(f"\n## {client}\n")[1].split("\n## ")[0]
        (snippet,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
        return snippet.replace(DOCUMENTED_URL, self.url)
