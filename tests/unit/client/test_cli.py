"""The `lookonce` command."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from lookonce import _plugins, cli


@pytest.fixture
def image(tmp_path, png):
    path = tmp_path / "a.png"
    path.write_bytes(png)
    return str(path)


def test_ask_prints_each_answer_and_where_it_came_from(server, image, capsys):
    assert cli.main(["ask", image, "what?", "what else?", "--server", server.url]) == 0
    out = capsys.readouterr().out
    assert "> what?\nred\n  miss · 80 tokens in context · 0 saved · " in out
    assert "> what else?\nred\n  hit (memory) · 20 tokens in context · 60 saved · " in out


def test_ask_as_json(server, image, capsys):
    assert cli.main(["ask", image, "what?", "--prepare", "--json", "--max-tokens", "7", "--server", server.url]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["question"], answer["text"], answer["hit"]) == ("what?", "red", True)
    assert server.requests[-1][2]["max_tokens"] == 7


def test_prepare_prints_the_context(server, image, context_id, capsys):
    assert cli.main(["prepare", image, "--server", server.url]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"lookonce:{context_id}\na red circle\n  kept 4 of 64 image tokens (attention, retention 0.05)"
    )
    assert "20 tokens in context · 4096 bytes" in out


def test_prepare_as_json(server, image, context_id, capsys):
    assert cli.main(["prepare", image, "--json", "--server", server.url]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == context_id


def test_the_key_comes_from_the_environment(server, image, monkeypatch):
    monkeypatch.setenv("LOOKONCE_API_KEY", "secret")
    assert cli.main(["prepare", image, "--server", server.url]) == 0
    assert server.headers[-1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize("arguments", [["ask", "{image}", "what?"], ["contexts", "ls"], ["contexts", "stats"]])
def test_a_key_on_the_command_line_comes_first(server, image, monkeypatch, arguments):
    monkeypatch.setenv("LOOKONCE_API_KEY", "other")
    words = [word.format(image=image) for word in arguments]
    assert cli.main([*words, "--api-key", "secret", "--server", server.url]) == 0
    assert {sent.get("authorization") for sent in server.headers} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "no.png", "what?"], "lookonce: cannot read the image 'no.png': No such file or directory\n"),
        (["prepare", "lookonce:x"], "lookonce: not a context id: 'lookonce:x'; 64 hex digits are expected\n"),
        (["contexts", "show", "ab12"], "lookonce: not a context id: 'ab12'; 64 hex digits are expected\n"),
        (["prepare", "x", "--server", "nowhere"], "lookonce: base_url is 'nowhere'; http://host:port or https://"),
    ],
)
def test_an_error_is_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_plugin_gets_its_arguments(monkeypatch):
    plugins = {"serve": EntryPoint("serve", f"{__name__}:_exit_code", "lookonce.commands")}
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(_plugins, "find", lambda: plugins)
    monkeypatch.setattr(sys.modules[__name__], "_exit_code", lambda argv: len(argv), raising=False)
    assert cli.main(["serve", "--port", "1", "--help"]) == 3


@pytest.mark.parametrize("target", ["surely_not_installed.cli:serve", "surely_not_installed:serve"])
def test_a_plugin_whose_packages_are_missing_says_what_to_install(target, monkeypatch, capsys):
    monkeypatch.setattr(_plugins, "find", lambda: {"serve": EntryPoint("serve", target, "lookonce.commands")})
    assert cli.main(["serve"]) == 2
    err = capsys.readouterr().err
    assert "lookonce serve needs the package 'surely_not_installed'" in err
    assert "pip install 'lookonce[server]'" in err


def test_a_fault_of_ours_is_not_taken_for_a_missing_package(monkeypatch):
    broken = EntryPoint("serve", "lookonce.no_such_module:serve", "lookonce.commands")
    monkeypatch.setattr(_plugins, "find", lambda: {"serve": broken})
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from lookonce.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'fastapi', 'pydantic', 'uvicorn', 'lookonce_server.cli'}\n"
        "print('heavy:', sorted(heavy & sys.modules.keys()))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("heavy: []\n")
    assert all(f"\n    {command} " in run.stdout for command in ("ask", "prepare", "contexts", "serve"))


def test_the_package_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "lookonce", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("lookonce ")
