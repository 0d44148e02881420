"""A live server with a profile: what it tells, what it keeps, and what it refuses."""

import json
import subprocess
import sys

import pytest

from lookonce_scenes import PROFILE

from ..support.pictures import picture_url
from ..support.server_process import MODEL, LookonceServer, environment

OPTIONS = {"window": "1-7", "rows": "both", "selection": "coverage:reach=0.3,strength=1", "retention": 0.1}


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> str:
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(json.loads(PROFILE.read_text()) | OPTIONS | changes))
        return str(path)

    return write


def test_a_profiles_options_are_those_of_the_contexts(write):
    with LookonceServer("--profile", write(), "--rows", "query") as server:
        told = server.get(f"/v1/models/{MODEL}").raise_for_status().json()["lookonce"]
        made = server.post("/v1/contexts", json={"image_url": picture_url(630)}).raise_for_status().json()
        kept = server.get(f"/v1/contexts/{made['id']}/tokens").raise_for_status().json()["kept"]
        with server.openai() as openai:
            assert [model.id for model in openai.models.list()] == [MODEL]
    given = OPTIONS | {"rows": "query"}
    assert {name: told[name] for name in OPTIONS} == given
    assert told["profile"]["overridden"] == ["rows"]
    assert (made["selection"], made["retention"]) == (OPTIONS["selection"], OPTIONS["retention"])
    assert made["kept_tokens"] == len(kept) == 20


def test_a_profile_of_another_checkpoint_ends_the_start_with_one_line(write):
    path = write(checkpoint={"name": "another", "digest": "ab" * 32})
    command = [sys.executable, "-m", "lookonce", "serve", "--port", "0", "--log-level", "error", "--profile", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, env=environment())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"lookonce serve: --profile {path}: it is of the checkpoint 'another'"
    )
    assert "Traceback" not in done.stderr
