"""Settings: flags before the environment before the file before the defaults; a bad value is named."""

import json
import re
from itertools import chain
from pathlib import Path

import pytest
from pydantic import ValidationError

from lookonce_server.cli import serve
from lookonce_server.sessions.context_options import ContextLimits
from lookonce_server.settings import Settings, load_settings

# All settings; a new one is added here and to docs/configuration.md.
NAMES = """
model served_name engine vllm handover_dir handover_bytes device dtype host port store ttl precision api_keys
store_responses
store_responses_bytes
api_key_hashes allow_anyone allowed_origins max_concurrent_per_tenant requests_per_minute max_requests
max_held_bytes body_timeout max_header_bytes header_timeout send_timeout stream_silence keep_alive_timeout
max_connections backlog root_path forwarded_allow_ips shutdown_seconds ready_needs_store profile retention
selection window rows mode on_miss fallback fallback_margin fallback_tokens keep_images keep_images_bytes
describe_prompt
files max_files max_files_bytes
describe_video_prompt
describe_tokens min_retention max_retention max_ttl max_describe_prompt max_images max_image_bytes
max_image_pixels
max_request_pixels
max_image_side max_video_bytes max_video_seconds max_frames
image_decoders image_decode_timeout image_hosts image_http image_networks image_fetch_timeout
allow_control_tokens tool_call_parser trust_remote_code max_answer_tokens max_running max_queue log_level log_format
metrics_tenants otlp_endpoint
""".split()
# A value of one setting in each group, other than its default.
VALUES = {
    "served_name": "mine",
    "precision": "int4",
    "api_key_hashes": "a=sha256:1",
    "root_path": "/vision",
    "log_format": "json",
    "retention": "0.25",
    "max_describe_prompt": "7",
    "max_image_side": "1000",
}


def kebab(name: str) -> str:
    return name.replace("_", "-")


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "lookonce.toml"
        path.write_text(text)
        return str(path)

    return write


def refused(capsys, *arguments: str) -> str:
    """What `lookonce serve` says when it cannot start."""
    assert serve(["--port", "0", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lookonce serve: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_without_anything_the_defaults_hold():
    assert load_settings(["--profile", "none"]).model_dump() == Settings(profile="none").model_dump()
    assert Settings().model == "bundled"


def test_the_settings_names_are_these_as_flags_in_the_environment_and_in_the_file(monkeypatch, toml):
    """Scripts and deployments have them: a name that is renamed breaks a start."""
    assert sorted(Settings.model_fields) == sorted(NAMES)
    parsed = load_settings(["--profile=none", *chain.from_iterable((f"--{kebab(n)}", v) for n, v in VALUES.items())])
    assert {name: str(getattr(parsed, name)) for name in VALUES} == VALUES
    parsed = load_settings(["--config", toml("".join(f'{name} = "{value}"\n' for name, value in VALUES.items()))])
    assert {name: str(getattr(parsed, name)) for name in VALUES} == VALUES
    for name, value in VALUES.items():
        monkeypatch.setenv(f"LOOKONCE_{name.upper()}", value)
    parsed = load_settings([])
    assert {name: str(getattr(parsed, name)) for name in VALUES} == VALUES


def test_the_model_is_called_by_the_last_part_of_its_path(tmp_path, monkeypatch):
    folder = tmp_path / "my-model"
    (folder / "weights").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    names = {
        "bundled": "lookonce-scenes",
        "org/model": "model",
        "org/model/": "model",
        ".": "my-model",
        "./": "my-model",
        "weights/..": "my-model",
        "..": tmp_path.name,
        "../my-model//": "my-model",
        str(folder / "weights" / ""): "weights",
        str(tmp_path / "link"): "link",  # as the operator calls it, whatever it leads to
        "~": Path.home().name,
        "/": "model",
    }
    assert {model: Settings(model=model).api_model for model in names} == names
    assert Settings(model=".", served_name="mine").api_model == "mine"


def test_flags_before_environment_before_file_before_default(monkeypatch, toml):
    file = toml('port = 1001\nretention = 0.1\nserved_name = "file"\nwindow = "all"\n')
    monkeypatch.setenv("LOOKONCE_PORT", "1002")
    monkeypatch.setenv("LOOKONCE_RETENTION", "0.2")
    monkeypatch.setenv("LOOKONCE_ON_MISS", "compress")
    settings = load_settings(["--port", "1003", "--ttl=60", "--config", file])
    assert (settings.port, settings.retention, settings.served_name) == (1003, 0.2, "file")
    assert (settings.window, settings.on_miss, settings.ttl) == ("all", "compress", 60.0)
    assert settings.host == Settings().host


def test_the_environment_is_read_when_asked_for_not_at_import(monkeypatch):
    assert load_settings([]).port == 8000
    monkeypatch.setenv("LOOKONCE_PORT", "1234")
    assert load_settings([]).port == 1234


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("root-path", "vision"),
        ("root-path", "/vision/"),
        ("forwarded-allow-ips", "*"),
        ("forwarded-allow-ips", "10.0.0.1/8"),
        ("forwarded-allow-ips", "proxy.example"),
        ("keep-alive-timeout", "0"),
        ("send-timeout", "inf"),
        ("max-header-bytes", "100"),
        ("max-connections", "0"),
        ("port", "65536"),
        ("port", "many"),
        ("retention", "0"),
        ("retention", "1.5"),
        ("retention", "nan"),
        ("selection", "best"),
        ("selection", "coverage:reach"),
        ("selection", "coverage:reach=0"),
        ("selection", "attention:reach=0.3"),
        ("selection", "coverage:" + "," * 200),
        ("profile", ""),
        ("rows", "all"),
        ("on-miss", "maybe"),
        ("ttl", "inf"),
        ("ttl", "-1"),
        ("dtype", "int8"),
        ("engine", "other"),
        ("describe-prompt", ""),
        ("describe-tokens", "0"),
        ("min-retention", "-0.1"),
        ("max-retention", "1.1"),
        ("max-ttl", "inf"),
        ("max-ttl", "-1"),
        ("max-describe-prompt", "6001"),
        ("max-image-bytes", "0"),
        ("max-image-pixels", "178956971"),
        ("max-image-side", "0"),
        ("image-decoders", "0"),
        ("image-decode-timeout", "0"),
        ("image-decode-timeout", "inf"),
        ("image-fetch-timeout", "nan"),
        ("image-hosts", "https://example.com"),
        ("image-hosts", "example.com,*"),
        ("image-networks", "10.0.0.1/24"),
        ("image-networks", "::ffff:10.0.0.0/104"),
        ("max-queue", "0"),
        ("log-level", "loud"),
        ("precision", "int3"),
        ("precision", "INT8"),
        ("max-requests", "0"),
        ("max-held-bytes", "0"),
        ("body-timeout", "0"),
        ("body-timeout", "inf"),
        ("shutdown-seconds", "-1"),
        ("max-concurrent-per-tenant", "0"),
        ("requests-per-minute", "1.5"),
        ("log-format", "xml"),
        ("otlp-endpoint", "localhost:4318"),
        ("allowed-origins", "*"),
        ("allowed-origins", "app.example"),
        ("allowed-origins", "https://app.example/"),
        ("allowed-origins", "https://ok.example, ftp://app.example"),
    ],
)
def test_a_bad_value_is_named_with_its_setting(capsys, name, value):
    said = refused(capsys, f"--{name}={value}")
    assert f"--{name}: " in said
    assert value in said


def test_what_requests_may_ask_for():
    assert Settings().context_limits == ContextLimits()
    assert Settings(ttl=60).context_limits.max_ttl == 60
    assert Settings(ttl=60, max_ttl=90).context_limits.max_ttl == 90
    limits = Settings(min_retention=0.1, max_retention=0, max_ttl=0, max_describe_prompt=0).context_limits
    assert limits == ContextLimits(0.1, 0, 0, 0)


def test_the_largest_retention_is_not_below_the_smallest(capsys):
    said = refused(capsys, "--min-retention=0.2", "--max-retention=0.1")
    assert "--max-retention: " in said
    assert "expected at least the min_retention 0.2, or 0" in said


def test_a_bad_value_of_the_environment_is_named(capsys, monkeypatch):
    monkeypatch.setenv("LOOKONCE_RETENTION", "2")
    assert "--retention: " in refused(capsys)


def test_responses_are_kept_unless_told_otherwise(monkeypatch):
    assert load_settings([]).store_responses
    assert not load_settings(["--no-store-responses"]).store_responses
    monkeypatch.setenv("LOOKONCE_STORE_RESPONSES", "false")
    assert not load_settings([]).store_responses


def test_an_unknown_selection_is_told_the_known_ones():
    with pytest.raises(ValidationError, match="expected one of attention"):
        Settings(selection="best")


def test_an_unknown_precision_is_told_the_known_ones():
    with pytest.raises(ValidationError, match="expected one of native, fp8, int8, int4"):
        Settings(precision="int3")


def test_precision_and_api_keys_come_from_anywhere(monkeypatch, toml):
    assert (Settings().precision, Settings().api_keys) == ("int8", None)
    file = toml('precision = "fp8"\napi_keys = "keys.toml"\n')
    settings = load_settings(["--config", file])
    assert (settings.precision, settings.api_keys) == ("fp8", Path("keys.toml"))
    monkeypatch.setenv("LOOKONCE_API_KEYS", "other.toml")
    settings = load_settings(["--precision", "int4", "--config", file])
    assert (settings.precision, settings.api_keys) == ("int4", Path("other.toml"))


def test_several_hosts_are_a_list_in_the_file_and_separated_by_commas_elsewhere(monkeypatch, toml):
    assert (Settings().image_hosts, Settings().image_networks) == ((), ())
    file = toml('image_hosts = ["example.com", "*.example.com"]\nimage_networks = ["10.1.2.0/24"]\n')
    settings = load_settings(["--config", file])
    assert (settings.image_hosts, settings.image_networks) == (("example.com", "*.example.com"), ("10.1.2.0/24",))
    monkeypatch.setenv("LOOKONCE_IMAGE_HOSTS", "a.example, b.example:8443")
    assert load_settings(["--config", file]).image_hosts == ("a.example", "b.example:8443")
    flags = ["--image-hosts", "c.example,[2001:db8::1]", "--image-networks=10.0.0.0/8,fd12::/16"]
    settings = load_settings([*flags, "--config", file])
    assert settings.image_hosts == ("c.example", "[2001:db8::1]")
    assert settings.image_networks == ("10.0.0.0/8", "fd12::/16")


def test_an_empty_variable_is_an_empty_list_and_an_empty_value_between_commas_is_none(monkeypatch):
    for name in ("image_hosts", "image_networks", "forwarded_allow_ips"):
        monkeypatch.setenv(f"LOOKONCE_{name.upper()}", " ")
        assert getattr(load_settings([]), name) == ()
        monkeypatch.setenv(f"LOOKONCE_{name.upper()}", "10.0.0.1,,10.0.0.2")
        with pytest.raises(ValidationError, match=name):
            load_settings([])
        monkeypatch.delenv(f"LOOKONCE_{name.upper()}")


@pytest.mark.parametrize("text", [None, "", "[tenants]\n", "[tenants]\nacme = 1\n"])
def test_a_wrong_file_of_api_keys_is_refused_in_one_line(capsys, tmp_path, text):
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)
    assert f"--api-keys {path}: " in refused(capsys, "--api-keys", str(path))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu.internal"])
def test_without_keys_only_this_machine_is_listened_to(capsys, host):
    said = refused(capsys, "--host", host)
    for told in (f"--host {host} ", "--api-keys", "--api-key-hashes", "--host 127.0.0.1", "--allow-anyone"):
        assert told in said
    for allowed in (["--allow-anyone"], ["--api-keys", "keys.toml"], ["--api-key-hashes", "a=sha256:1"]):
        assert load_settings(["--host", host, *allowed]).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_without_keys_this_machine_is_listened_to(host):
    assert load_settings(["--host", host]).host == host


def test_bodies_held_must_have_room_for_one(capsys):
    assert "--max-held-bytes 1000 is less than the 45787818 bytes" in refused(capsys, "--max-held-bytes", "1000")


def test_a_key_in_the_wrong_place_is_not_repeated(capsys, toml):
    key = "lo-" + "x" * 43
    assert key not in refused(capsys, "--api-keys", key)
    assert key not in refused(capsys, "--api-key-hashes", f"acme={key}")
    assert key not in refused(capsys, "--config", toml(f'api_key_hashes = ["{key}"]\n'))


def test_key_hashes_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("LOOKONCE_API_KEY_HASHES", "acme=sha256:1")
    assert load_settings(["--host", "0.0.0.0"]).api_key_hashes == "acme=sha256:1"


def test_an_unknown_key_of_the_file_is_refused(capsys, toml):
    assert "retentoin" in refused(capsys, "--config", toml("retentoin = 0.1\n"))


@pytest.mark.parametrize("name", ["--retentoin", "--ret"])
def test_an_unknown_flag_is_refused_and_none_is_guessed(capsys, name):
    with pytest.raises(SystemExit) as exit_:
        serve([name, "0.1"])
    assert exit_.value.code == 2
    assert name in capsys.readouterr().err


def test_a_file_that_is_missing_is_no_default(capsys, tmp_path):
    assert "missing.toml" in refused(capsys, "--config", str(tmp_path / "missing.toml"))


def test_a_file_that_is_no_toml_is_named(capsys, toml):
    path = toml("port: 8000\n")
    assert path in refused(capsys, "--config", path)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_tells_every_setting_in_a_group_with_a_placeholder_and_its_default(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as exit_:
        serve(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert columns == 40 or max(map(len, out.splitlines())) < columns
    assert not any(line.endswith("-") for line in out.splitlines()), "a flag is broken at a hyphen"
    _, *groups = re.split(r"\n\n(?=\S.*:\n  -)", out)[1:]
    text = " ".join(out.split())
    assert "--config FILE TOML file of settings" in text
    assert groups[0].startswith("model and engine:")
    assert len(groups) == 8
    for name, field in Settings.model_fields.items():
        shown = sum(bool(re.search(rf"^  --{kebab(name)}[ ,]", group, re.MULTILINE)) for group in groups)
        assert shown == (name != "on_miss"), name  # each in one group; an older name in none
        assert field.description
        assert name == "on_miss" or re.sub(r"\W", "", field.description) in re.sub(r"\W", "", text)
    placeholders = re.findall(r"^  --[a-z-]+ (\S+)", "\n".join(groups), re.MULTILINE)
    assert all(re.fullmatch(r"[A-Z]+|\{[a-z0-9_,]+\}|--no-[a-z-]+", word) for word in placeholders), placeholders
    assert not {"INT", "STR", "FLOAT", "VALUE"} & set(placeholders)
    for default in ("(default: on)", "(default: 268435456, which is 256 MiB)", "(default: 8000)", "(default: none)"):
        assert default in text


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_a_wrong_store_url_is_refused_in_one_line(capsys, monkeypatch):
    said = refused(capsys, "--store", "postgres://localhost")
    assert "postgres" in said
    assert "memory://" in said


def test_a_model_that_is_not_there_is_refused_in_one_line(capsys, monkeypatch, tmp_path):
    said = refused(capsys, "--model", str(tmp_path / "nothing"))
    assert json.dumps(str(tmp_path / "nothing")).strip('"') in said


def test_any_flag_that_begins_with_vllm_is_kept_for_vllm():
    flags = ["--engine", "vllm", "--vllm-tensor-parallel-size", "2", "--port", "0", "--vllm-enforce-eager"]
    settings = load_settings([*flags, "--vllm-max-model-len=2048", "--vllm-no-enable-prefix-caching"])
    assert settings.port == 0
    assert settings.vllm == {
        "tensor_parallel_size": "2",
        "enforce_eager": True,
        "max_model_len": "2048",
        "no_enable_prefix_caching": True,
    }


def test_vllms_options_come_from_flags_environment_and_file_together(monkeypatch, toml):
    file = toml('engine = "vllm"\n[vllm]\nmax_num_seqs = 4\nmax_model_len = 1024\nseed = 1\n')
    monkeypatch.setenv("LOOKONCE_VLLM", '{"max_model_len": 512, "seed": 2}')
    assert load_settings(["--vllm-seed", "3", "--config", file]).vllm == {
        "max_num_seqs": 4,
        "max_model_len": 512,
        "seed": "3",
    }


def test_vllms_options_need_vllm(capsys):
    assert "--vllm: Value error, options of vLLM's engine need --engine vllm" in refused(capsys, "--vllm-seed", "3")


def test_with_vllm_the_device_is_not_ours_to_choose(capsys):
    assert "CUDA_VISIBLE_DEVICES" in refused(capsys, "--engine", "vllm", "--device", "cuda:1")


@pytest.mark.extended  # it is vLLM's own parser
def test_an_option_that_vllm_does_not_have_is_refused_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    said = refused(capsys, "--engine", "vllm", "--vllm-max-modle-len", "4")
    assert "unrecognized arguments: --vllm-max-modle-len=4" in said
