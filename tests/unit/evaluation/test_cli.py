"""The commands are found by name, and fail in one line."""

import pytest

from lookonce_evaluation import cli


@pytest.mark.parametrize(("call", "group"), [(cli.evaluate, "eval"), (cli.analyze, "analyze")])
def test_without_a_command_the_usage_is_shown(call, group, capsys):
    assert call([]) == 2
    assert capsys.readouterr().err.startswith(f"usage: lookonce {group} COMMAND")
    assert call(["--help"]) == 0
    assert f"usage: lookonce {group} COMMAND" in capsys.readouterr().out
    assert call(["nonsense"]) == 2


@pytest.mark.parametrize("commands", [cli.EVAL, cli.ANALYZE])
def test_each_command_has_help(commands, capsys):
    for name, (module, _) in commands.items():
        with pytest.raises(SystemExit) as end:
            cli.run(name, module, ["--help"])
        assert end.value.code == 0
        assert f"{name} [-h]" in capsys.readouterr().out


def test_whatever_is_wrong_no_command_ends_in_a_traceback(capsys, tmp_path):
    """A checkpoint, a device, pictures and questions that are not there: one line that names them."""
    missing, empty = str(tmp_path / "missing"), tmp_path / "empty"
    empty.mkdir()
    models = ("--model", missing), ("--model", str(empty)), ("--device", "quantum"), ("--device", "cuda:99")
    with_model = [
        *((cli.evaluate, name) for name in ("retention", "judge", "albums", "videos", "fallback")),
        *((cli.analyze, name) for name in cli.ANALYZE),
    ]
    wrong = [(call, name, *options) for call, name in with_model for options in models]
    judge = ("judge", "--judge", "http://127.0.0.1:1/v1", "--judge-model", "x")
    wrong += [(cli.evaluate, *judge, "--images-folder", folder) for folder in (missing, str(empty))]
    wrong += [(cli.evaluate, "judge", "--pairs", path) for path in (missing, str(empty))]
    wrong += [(cli.calibrate, missing, "--images", "scenes"), (cli.calibrate, "bundled", "--images", missing)]
    wrong += [(cli.calibrate, str(empty), "--images", "scenes", "--output", f"{missing}/profile.json")]
    for call, *arguments in wrong:
        outputs = [] if call is cli.calibrate else ["--out", str(tmp_path / "run")]
        assert call([*arguments, *outputs]) == 1, arguments
        error = capsys.readouterr().err
        assert error.startswith("lookonce "), arguments
        assert error.count("\n") == 1, (arguments, error)
        named = f"--device {arguments[-1]}: expected 'cpu'" if "--device" in arguments else arguments[-1]
        assert named in error or (call is cli.calibrate and "model" in error), (arguments, error)


def test_an_unknown_command_is_named(capsys):
    assert cli.evaluate(["nonsense"]) == 2
    assert capsys.readouterr().err.endswith("\nlookonce eval: no command 'nonsense'\n")
