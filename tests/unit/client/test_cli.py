"""The `lookonce` command."""

import functools
import io
import json
import os
import socket
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from lookonce import cli
from lookonce.cli import plugins

from .contract_server import GREY, Failure, id_of, urls

IDS = [f"{i:064x}" for i in range(2)]


@pytest.fixture
def image(tmp_path, png):
    path = tmp_path / "a.png"
    path.write_bytes(png)
    return str(path)


@pytest.fixture
def typed(monkeypatch):
    """Puts text where commands read their input, which is no terminal."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_ask_prints_each_answer_and_where_it_came_from(server, image, capsys):
    assert cli.main(["ask", image, "what?", "what else?", "--server", server.url]) == 0
    out = capsys.readouterr().out
    assert "> what?\nred\n  miss · 0 tokens in context · 0 saved · " in out
    assert "> what else?\nred\n  hit (memory) · 20 tokens in context · 70 saved · " in out
    assert out.endswith("\n\n2 questions, 1 hit · saved 70 of 170 prompt tokens (41%) · 42 B of image not sent\n")
    assert not any("stream" in body for body in server.bodies())


def test_one_question_has_no_totals(server, image, capsys):
    assert cli.main(["ask", image, "what?", "--server", server.url]) == 0
    assert "question" not in capsys.readouterr().out


def test_ask_as_json(server, image, capsys):
    assert cli.main(["ask", image, "what?", "and?", "--json", "--max-tokens", "7", "--server", server.url]) == 0
    first, second, last = lines(capsys.readouterr().out)
    assert (first["question"], first["text"], first["hit"], first["cache"]) == ("what?", "red", False, "miss")
    assert (second["question"], second["hit"]) == ("and?", True)
    assert (last["saved"]["questions"], last["saved"]["share"]) == (2, pytest.approx(70 / 170))
    assert {body["max_tokens"] for body in server.bodies()} == {7}


@pytest.mark.parametrize("command", ["ask", "chat", "describe"])
def test_options_of_the_context_are_sent(server, image, typed, command):
    typed("what?\n")
    words = [command, image, *(["what?"] if command == "ask" else [])]
    chosen = ["--retention", "0.1", "--ttl", "60", "--describe-prompt", "Look."]
    assert cli.main([*words, *chosen, "--server", server.url]) == 0
    sent = server.requests[-1][2]
    options = sent if command == "describe" else sent["lookonce"]
    assert [options[name] for name in ("retention", "ttl", "describe_prompt")] == [0.1, 60, "Look."]


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_on_miss_and_fallback_are_sent(server, image, typed, command):
    typed("what?\n")
    words = [command, image, *(["what?"] if command == "ask" else [])]
    assert cli.main([*words, "--on-miss", "compress", "--fallback", "--server", server.url]) == 0
    assert server.requests[-1][2]["lookonce"] == {"on_miss": "compress", "fallback": True}


def test_a_pipe_of_questions_gets_answers_only(server, image, typed, capsys):
    server.answers = {"what?": "a\ncircle\x1b[2J"}
    typed("what?\n\n  and?\n")
    assert cli.main(["chat", image, "--server", server.url]) == 0
    assert capsys.readouterr() == ("a circle [2J\nred\n", "")
    assert [len(body["messages"]) for body in server.bodies()] == [1, 3]


def test_a_pipe_of_questions_as_json(server, image, typed, capsys):
    typed("what?\nand?\n")
    assert cli.main(["chat", image, "--json", "--server", server.url]) == 0
    *answers, last = lines(capsys.readouterr().out)
    assert [(line["question"], line["hit"]) for line in answers] == [("what?", False), ("and?", True)]
    assert last["saved"]["hits"] == 1


def test_the_first_error_ends_a_pipe(server, image, typed, capsys):
    server.refuse = 400, b'{"error": {"message": "no"}}'
    typed("what?\nand?\n")
    assert cli.main(["chat", image, "--server", server.url]) == 1
    assert capsys.readouterr() == ("", "lookonce: no\n")
    assert len(server.requests) == 1


def test_describe_prints_the_description_and_what_was_kept(server, image, context_id, capsys):
    assert cli.main(["describe", image, "--server", server.url]) == 0
    kept = "kept 4 of 64 image tokens (attention, retention 0.05) · 20 tokens in context · 4.0 KiB"
    assert capsys.readouterr() == (f"a red circle\n  made now · {kept}\nlookonce:{context_id}\n", "")
    assert cli.main(["describe", image, "--server", server.url]) == 0
    assert capsys.readouterr().out == f"a red circle\n  was there · {kept}\nlookonce:{context_id}\n"


def test_describe_as_json(server, image, context_id, capsys):
    for created in (True, False):
        assert cli.main(["describe", image, "--json", "--server", server.url]) == 0
        (made,) = lines(capsys.readouterr().out)
        assert (made["id"], made["created"], made["description"]) == (context_id, created, "a red circle")


def test_describe_writes_a_heat_map(server, image, tmp_path, capsys):
    path = tmp_path / "kept.png"
    assert cli.main(["describe", image, "--heatmap", str(path), "--server", server.url]) == 0
    assert path.read_bytes().startswith(b"data:image/png;base64,")
    assert capsys.readouterr().err == ""
    assert cli.main(["describe", image, "--heatmap", str(tmp_path / "no" / "kept.png"), "--server", server.url]) == 1
    assert capsys.readouterr().err == f"lookonce: cannot write '{tmp_path}/no/kept.png': No such file or directory\n"


def test_a_heat_map_without_the_image_where_the_model_has_no_places_in_it(server, image, tmp_path, capsys):
    server.is_framed = False
    path = tmp_path / "kept.png"
    assert cli.main(["describe", image, "--heatmap", str(path), "--server", server.url]) == 0
    assert path.read_bytes().startswith(GREY)
    assert capsys.readouterr().err == "lookonce: the heat map is drawn without the image: no places\n"


def test_an_error_while_describing(server, image, capsys):
    server.stream_events = ['{"type": "error", "error": {"message": "no\\u001b[2J", "code": "engine_error"}}']
    assert cli.main(["describe", image, "--server", server.url]) == 1
    assert capsys.readouterr().err == "lookonce: no [2J (request req-1)\n"


def test_the_server_comes_from_the_environment_unless_an_option_names_it(server, monkeypatch, capsys):
    monkeypatch.setenv("LOOKONCE_SERVER", server.url)
    assert cli.main(["contexts", "stats"]) == 0
    monkeypatch.setenv("LOOKONCE_SERVER", "nowhere")
    assert cli.main(["contexts", "stats", "--server", server.url]) == 0
    assert cli.main(["contexts", "stats"]) == 1
    assert "base_url is 'nowhere'" in capsys.readouterr().err


def test_the_key_comes_from_the_environment(server, image, monkeypatch):
    monkeypatch.setenv("LOOKONCE_API_KEY", "secret")
    assert cli.main(["describe", image, "--server", server.url]) == 0
    assert server.headers[-1]["authorization"] == "Bearer secret"


def test_a_moments_trouble_is_not_noticed(server, image, capsys):
    server.failures.extend([Failure(503), Failure(0)])
    assert cli.main(["ask", image, "what?", "--server", server.url]) == 0
    assert capsys.readouterr().err == ""


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
        (["describe", "lookonce:x"], "lookonce: not a context id: 'lookonce:x'; 64 hex digits are expected\n"),
        (["contexts", "show", "ab1"], "lookonce: not a context id: 'ab1'; 64 hex digits are expected\n"),
        (["describe", "x", "--server", "nowhere"], "lookonce: base_url is 'nowhere'; http://host:port or https://"),
    ],
)
def test_an_error_is_one_line(arguments, message, capsys):
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_whatever_is_wrong_no_command_ends_in_a_traceback(server, image, tmp_path, capsys, typed):
    """Each command with what it cannot reach, read, send or understand: one line, and a code that is no success."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        away = f"http://127.0.0.1:{closed.getsockname()[1]}"
        about = {"ask": [image, "what?"], "chat": [image], "describe": [image]}
        contexts = (["ls"], ["show", IDS[0]], ["rm", IDS[0]], ["stats"])
        commands = [*([name, *words] for name, words in about.items()), *(["contexts", *words] for words in contexts)]
        wrong = [
            [*words, *options]
            for words in commands
            for options in (
                ["--server", away],
                ["--server", "nowhere"],
                ["--server", "http://[::1"],
                ["--api-key", "k\u00fcy"],
                ["--api-key", "a\nb"],
            )
        ]
        (tmp_path / "empty.png").touch()
        for source in (str(tmp_path), str(tmp_path / "no.png"), str(tmp_path / "empty.png"), "", "a\0b", "lookonce:x"):
            wrong += [["ask", source, "what?"], ["chat", source], ["describe", source]]
        wrong += [["contexts", command, name] for command in ("show", "rm") for name in ("", "abc", "g" * 64)]
        for words in wrong:
            typed("what?\n")
            code = cli.main(words if "--server" in words else [*words, "--server", server.url])
            err = capsys.readouterr().err
            assert (code, err.count("\n"), err[:10]) == (1, 1, "lookonce: "), (words, err)
    for status, body in ((200, b"no JSON"), (200, b"[]"), (500, b"<html>"), (404, b"{}"), (200, b'{"data": 1}')):
        server.refuse = status, body
        for words in commands:
            typed("what?\n")
            is_removed = status == 200 and words[1] == "rm" and body != b"no JSON"  # its reply says nothing more
            assert cli.main([*words, "--server", server.url]) == (0 if is_removed else 1), (words, body)
            assert capsys.readouterr().err.count("\n") == (0 if is_removed else 1), (words, body)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--timeout", ("nan", "0", "-1", "x")),
        ("--retention", ("nan", "x")),
        ("--ttl", ("inf", "")),
        ("--fps", ("nan",)),
    ],
)
def test_a_number_that_is_none_is_a_wrong_argument(option, values, image, capsys):
    for value in values:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["describe", image, option, value])
        assert f"argument {option}: {value!r}: expected a number" in capsys.readouterr().err


def test_a_plugin_is_held_to_the_same(monkeypatch, capsys):
    """Ctrl-C, a reader that has gone, and a file that cannot be written."""
    here = sys.modules[__name__]
    monkeypatch.setattr(
        plugins, "find", lambda: {"serve": EntryPoint("serve", f"{__name__}:_fail", "lookonce.commands")}
    )
    for error, code, message in (
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "/a/b"), 1, "lookonce: '/a/b': Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "lookonce: No space left on device\n"),
    ):
        monkeypatch.setattr(here, "_fail", functools.partial(_raise, error), raising=False)
        assert cli.main(["serve"]) == code
        assert capsys.readouterr().err == message


def _raise(error: BaseException, arguments: list[str]) -> int:
    raise error


@pytest.mark.parametrize("is_full", [False, True])
def test_output_that_nobody_takes_is_no_traceback(is_full):
    """Help of this package's, help of a plugin's, and output, to a pipe that was closed and to a disk that is full."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as people run it
    for words in (["--help"], ["serve", "--help"], ["--version"]):
        reader, writer = os.pipe()
        os.close(reader)
        target = os.open("/dev/full", os.O_WRONLY) if is_full else writer
        done = subprocess.run(
            [sys.executable, "-m", "lookonce", *words],
            stdout=target,
            stderr=subprocess.PIPE,
            env=buffered,
            text=True,
            check=False,
        )
        if is_full:
            os.close(target)
        os.close(writer)
        message = "lookonce: No space left on device\n" if is_full else ""
        is_long = words[0] == "serve"  # argparse itself meets the failure then, and ignores it
        assert (done.returncode, done.stderr) in ([(1, message), (0, "")] if is_long else [(1, message)]), words


def test_a_plugin_gets_its_arguments(monkeypatch):
    found = {"serve": EntryPoint("serve", f"{__name__}:_exit_code", "lookonce.commands")}
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(plugins, "find", lambda: found)
    monkeypatch.setattr(sys.modules[__name__], "_exit_code", lambda argv: len(argv), raising=False)
    assert cli.main(["serve", "--port", "1", "--help"]) == 3


@pytest.mark.parametrize("target", ["surely_not_installed.cli:serve", "surely_not_installed:serve"])
def test_a_plugin_whose_packages_are_missing_says_what_to_install(target, monkeypatch, capsys):
    monkeypatch.setattr(plugins, "find", lambda: {"serve": EntryPoint("serve", target, "lookonce.commands")})
    assert cli.main(["serve"]) == 2
    err = capsys.readouterr().err
    assert "lookonce serve needs the package 'surely_not_installed'" in err
    assert "pip install 'lookonce[server]'" in err


def test_a_fault_of_ours_is_not_taken_for_a_missing_package(monkeypatch):
    broken = EntryPoint("serve", "lookonce.no_such_module:serve", "lookonce.commands")
    monkeypatch.setattr(plugins, "find", lambda: {"serve": broken})
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_help_lists_every_command_and_like_a_wrong_flag_imports_nothing_heavy():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from lookonce.cli import main\n"
        "for words in (['--help'], ['--wrong'], ['wrong'],"
        " ['ask', 'a.png', 'what?', '--wrong'], ['contexts', 'ls', '--limit', 'x']):\n"
        "    try:\n        main(words)\n"
        "    except SystemExit as end:\n        print('exit code', end.code)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'fastapi', 'pydantic', 'uvicorn', 'httpx2', 'asyncio', 'ssl'}\n"
        "new = sys.modules.keys() - before\n"
        "print('heavy:', sorted(name for name in new if name in heavy or name.startswith('lookonce_')))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("exit code 0\n" + 4 * "exit code 2\n" + "heavy: []\n")
    assert all(f"\n    {command} " in run.stdout for command in ("ask", "chat", "describe", "contexts", "serve"))
    assert "unrecognized arguments: --wrong" in run.stderr
    assert "invalid choice: 'wrong'" in run.stderr


def test_the_package_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "lookonce", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("lookonce ")


# --- several images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, png):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(png + bytes([i]))
    return [str(path) for path in paths]


def test_ask_takes_several_images_before_the_separator(server, pictures, capsys):
    words = ["ask", *pictures, "--max-tokens", "7", "--", "Which is red?", "-and which", "--json"]
    assert cli.main([words[0], "--server", server.url, *words[1:]]) == 0
    out = capsys.readouterr().out
    assert "> Which is red?\nred\n  miss · 0 tokens" in out
    assert "> -and which\nred\n  hit (memory) · 60 tokens in context · 210 saved" in out
    assert "> --json\n" in out
    assert [len(urls(body)) for body in server.bodies()] == [3, 3, 3]
    assert {body["max_tokens"] for body in server.bodies()} == {7}


def test_the_separator_goes_with_one_image_too(server, image, capsys):
    assert cli.main(["ask", image, "--server", server.url, "--", "--what?"]) == 0
    assert "> --what?\nred\n" in capsys.readouterr().out


def test_a_miss_says_how_many_images_were_known(server, pictures, capsys):
    assert cli.main(["ask", pictures[0], "what?", "--server", server.url]) == 0
    assert cli.main(["ask", *pictures, "--server", server.url, "--", "what?"]) == 0
    assert "  miss, 1 of 3 images known · 0 tokens in context" in capsys.readouterr().out


def test_an_image_in_a_questions_place_is_not_asked(server, pictures, capsys):
    """Without the separator a second image would be a question: the model would answer it somehow."""
    assert cli.main(["ask", *pictures, "Which is red?", "--server", server.url]) == 1
    told = f"the question {pictures[1]!r} is a file; if it is an image, put -- before the questions"
    assert capsys.readouterr().err == f"lookonce: {told}\n"
    assert server.requests == []
    assert cli.main(["ask", pictures[0], "Why? " * 1000, "--server", server.url]) == 0  # no file has such a name


@pytest.mark.parametrize(("words", "message"), [([], "no QUESTION after --"), (["--", "what?"], "required: IMAGE")])
def test_both_sides_of_the_separator_are_needed(server, image, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ask", *(words or [image, "--"])])
    err = capsys.readouterr().err
    assert message in err
    assert "IMAGE QUESTION [QUESTION ...]" in err
    assert "IMAGE [IMAGE ...] -- QUESTION [QUESTION ...]" in err


def test_chat_and_describe_take_several_images(server, pictures, typed, tmp_path, capsys):
    typed("what?\nand?\n")
    assert cli.main(["chat", *pictures, "--server", server.url]) == 0
    assert [len(urls(body)) for body in server.bodies()] == [3, 3]
    assert capsys.readouterr().out == "red\nred\n"
    server.contexts.clear()
    assert cli.main(["describe", *pictures[:2], "--json", "--server", server.url]) == 0
    assert [line["id"] for line in lines(capsys.readouterr().out)] == [
        id_of(url) for url in urls(server.bodies()[0])[:2]
    ]
    path = tmp_path / "kept.png"
    assert cli.main(["describe", *pictures, "--heatmap", str(path), "--server", server.url]) == 1
    assert capsys.readouterr().err == "lookonce: --heatmap is of one image; there are 3\n"
