"""The OpenAPI document is true: schemathesis sends what it allows, and what it forbids, to a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.server_process import LookonceServer

pytestmark = pytest.mark.extended
_FOLDER = Path(__file__).parents[1] / "support" / "openapi"
_EXAMPLES = int(os.environ.get("LOOKONCE_TEST_OPENAPI_EXAMPLES", "20"))  # an operation and phase
_SEED = os.environ.get("LOOKONCE_TEST_OPENAPI_SEED", "1")


@pytest.fixture(scope="module")
def key() -> str:
    return new_key()


@pytest.fixture(scope="module")
def server(tmp_path_factory, key):
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(f'[tenants]\nacme = ["sha256:{key_hash(key)}"]\n')
    with LookonceServer("--api-keys", str(keys), "--max-answer-tokens", "8") as running:
        yield running


def test_schemathesis_finds_nothing(server, key, tmp_path):
    report = tmp_path / "report.json"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_FOLDER / "schemathesis.toml")),
        *("run", f"{server.url}/openapi.json", "--checks", "all", "--continue-on-failure", "--no-color"),
        *("--header", f"Authorization: Bearer {key}", "--max-examples", str(_EXAMPLES), "--seed", _SEED),
        *("--report", "json", "--report-json-path", str(report)),
    ]
    paths = os.pathsep.join(filter(None, (str(_FOLDER.parents[2]), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.support.openapi.hooks", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    assert json.loads(report.read_text())
