"""Profiles: strict files, options that stand between the given ones and the defaults, and one checkpoint each."""

import json
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from lookonce_scenes import PROFILE
from lookonce_server.app import _app, describe_plan
from lookonce_server.cli import serve
from lookonce_server.errors import ModelRefusedError, ProfileError
from lookonce_server.profile import MAX_BYTES, Profile
from lookonce_server.settings import Settings, load_settings

OPTIONS = {"window": "1-7", "rows": "both", "selection": "coverage:reach=0.3,strength=1", "retention": 0.07}


@pytest.fixture
def profile() -> dict:
    """The bundled model's, with options that are nobody's defaults."""
    return json.loads(PROFILE.read_text()) | OPTIONS


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and returns its path."""

    def write(content: object) -> str:
        path = tmp_path / "profile.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def options(settings: Settings) -> dict:
    """Those that a profile decides."""
    return {name: getattr(settings, name) for name in OPTIONS}


def refused(capsys, *arguments: str) -> str:
    """What `lookonce serve` says when it cannot start."""
    assert serve(["--port", "0", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("lookonce serve: ")
    assert said.count("\n") == 1
    return said


def test_what_is_written_is_read_back(profile, write, tmp_path):
    read = Profile.read(Path(write(profile)), "it")
    read.write(tmp_path / "again.json")
    assert Profile.read(tmp_path / "again.json", "it") == read
    assert json.loads((tmp_path / "again.json").read_text()) == profile


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"window": "middle"}, "window: expected a half-open range of layers such as '2-6' (given: 'middle')"),
        ({"window": "6-2"}, "window: expected a half-open range"),
        ({"rows": "some"}, "rows: Input should be 'generated', 'query' or 'both'"),
        ({"selection": "best"}, "selection: expected one of attention, "),
        ({"selection": "coverage:reach=-1"}, "selection: reach -1.0: expected more than 0"),
        ({"selection": "coverage:" + "," * 200}, "selection: String should have at most 200 characters"),
        ({"retention": 0}, "retention: Input should be greater than 0"),
        ({"retention": "0.05"}, "retention: Input should be a valid number"),
        ({"describe_prompt": ""}, "describe_prompt: String should have at least 1 character"),
        ({"describe_prompt": "x" * 6001}, "describe_prompt: String should have at most 6000"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"checkpoint": {"name": "m", "digest": "12"}}, "checkpoint.digest: String should match pattern"),
        ({"checkpoint": {"name": "two\nlines", "digest": "0" * 64}}, "checkpoint.name: String should match pattern"),
        ({"measured": {}}, "measured.measure: Field required"),
        ({"measured": None}, "measured: Input should be an object"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(capsys, profile, write, change, told):
    path = write(profile | change)
    said = refused(capsys, "--profile", path)
    assert f"--profile {path}: {told}" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Invalid JSON"),
        ("[1]", "Input should be an object"),
        (" " * MAX_BYTES + "{}", "more than the 65536 bytes"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(capsys, write, text, told):
    assert told in refused(capsys, "--profile", write(text))


def test_a_profile_that_is_not_there_is_refused_in_one_line(capsys, tmp_path):
    assert "No such file" in refused(capsys, "--profile", str(tmp_path / "missing.json"))
    assert "directory" in refused(capsys, "--profile", str(tmp_path))


def test_flags_before_environment_before_file_before_profile_before_default(monkeypatch, tmp_path, profile, write):
    given = ["--profile", write(profile)]
    assert options(load_settings(given)) == OPTIONS
    file = tmp_path / "lookonce.toml"
    file.write_text('window = "0-1"\nrows = "query"\nselection = "uniform"\n')
    monkeypatch.setenv("LOOKONCE_WINDOW", "0-2")
    monkeypatch.setenv("LOOKONCE_ROWS", "generated")
    settings = load_settings([*given, "--window", "0-3", "--config", str(file)])
    assert options(settings) == {"window": "0-3", "rows": "generated", "selection": "uniform", "retention": 0.07}
    assert settings.describe_prompt == Settings().describe_prompt


def test_a_given_value_wins_where_it_is_the_default_too(profile, write):
    assert load_settings(["--profile", write(profile), "--retention", "0.05"]).retention == 0.05


def test_the_profile_comes_from_anywhere(monkeypatch, tmp_path, profile, write):
    monkeypatch.setenv("LOOKONCE_PROFILE", write(profile))
    assert options(load_settings([])) == OPTIONS
    monkeypatch.delenv("LOOKONCE_PROFILE")
    file = tmp_path / "lookonce.toml"
    file.write_text(f'profile = "{write(profile)}"\n')
    assert options(load_settings(["--config", str(file)])) == OPTIONS


def test_a_calibrated_prompt_is_the_describe_prompt(profile, write):
    given = ["--profile", write(profile | {"describe_prompt": "What is there?"})]
    assert load_settings(given).describe_prompt == "What is there?"
    assert load_settings([*given, "--describe-prompt", "Describe."]).describe_prompt == "Describe."


def test_the_bundled_model_has_its_own_profile_and_others_have_none():
    bundled = Profile.read(PROFILE, "it")
    settings = load_settings([])
    assert settings.applied_profile == bundled
    assert options(settings) == {name: bundled.options[name] for name in OPTIONS}
    for arguments in (["--profile", "none"], ["--model", "some/other"]):
        settings = load_settings(arguments)
        assert settings.applied_profile is None
        assert options(settings) == options(Settings())
        assert settings.window == "middle"


def test_the_bundled_profile_is_of_the_bundled_checkpoint_and_keeps_what_it_promises(engine):
    plan = describe_plan(load_settings([]), engine)
    profile = Profile.read(PROFILE, "it")
    assert profile.overridden(plan.options) == []
    assert plan.retention == 0.05
    assert profile.measured.at_least >= 1 - profile.measured.tolerance


def test_a_profile_of_another_checkpoint_is_refused_and_both_are_named(engine, profile, write):
    path = write(profile | {"checkpoint": {"name": "another", "digest": "ab" * 32}})
    with pytest.raises(ProfileError) as refused:
        describe_plan(load_settings(["--profile", path]), engine)
    said = str(refused.value)
    assert said.startswith(f"--profile {path}: it is of the checkpoint 'another' (abababababab)")
    assert f"'bundled' ({engine.facts.checkpoint[:12]})" in said


def test_a_window_beyond_the_model_is_refused(engine, profile, write):
    settings = load_settings(["--profile", write(profile | {"window": "6-9"})])
    with pytest.raises(ModelRefusedError, match=r"window '6-9': expected 0 <= first < end <= 8"):
        describe_plan(settings, engine)


@pytest.mark.anyio
async def test_the_model_tells_what_is_in_force(client_with, bench):
    async with client_with() as client:
        told = (await client.get("/v1/models/m")).raise_for_status().json()["lookonce"]
    assert told.pop("model")["family"] == "llava"
    plan = bench.plan
    assert told == {
        "window": "2-6",
        "rows": plan.rows,
        "selection": plan.selection,
        "retention": plan.retention,
        "describe_prompt": plan.prompt,
        "profile": None,
    }


@pytest.mark.anyio
async def test_the_model_tells_its_profile_and_what_is_set_otherwise(app, profile, write):
    applied = Settings(profile=write(profile)).with_profile()
    served = _app(replace(app.state.parts, settings=applied))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(served), base_url="http://localhost") as client:
        told = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["lookonce"]["profile"]
    assert told == {
        "checkpoint": profile["checkpoint"],
        "overridden": ["window", "rows", "selection", "retention"],
        "measured": profile["measured"],
    }
