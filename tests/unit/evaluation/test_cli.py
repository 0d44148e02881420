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


def test_a_checkpoint_that_is_not_there_is_one_line(capsys, tmp_path):
    missing = str(tmp_path / "missing")
    assert cli.evaluate(["retention", "--model", missing, "--images", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lookonce eval retention: model")
    assert missing in error
    assert error.count("\n") == 1
