"""`lookonce completion`: scripts that shells take, with the server's own flags."""

import subprocess
import sys

import pytest

from lookonce import cli

# What bash would do at a press of the tabulator, after a line of words.
_PRESS = """
press() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    "$(complete -p lookonce | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
    echo "${COMPREPLY[@]}"
}
"""
LINES = {
    "lookonce comp": "completion",
    "lookonce se": "serve",
    "lookonce serve --por": "--port",
    "lookonce serve --no-keep-i": "--no-keep-images",
    "lookonce check --tr": "--trust-remote-code",
    "lookonce contexts s": "show stats",
    "lookonce eval ret": "retention",
    "lookonce describe --heat": "--heatmap",
    "lookonce ask pic": "picture.png",
    "lookonce serve --on-m": "",  # an older name
}


def test_bash_completes_commands_flags_and_files(tmp_path, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", "bash"]) == 0
    presses = "".join(f"press {line}\n" for line in LINES)
    (tmp_path / "picture.png").touch()
    (tmp_path / "script").write_text(capsys.readouterr().out + _PRESS + presses)
    shown = subprocess.run(["bash", "script"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (shown.stdout.split("\n")[:-1], shown.stderr) == (list(LINES.values()), "")


def test_there_is_a_script_for_each_shell(capsys):
    pytest.importorskip("shtab")
    for shell, beginning in (("zsh", "#compdef lookonce"), ("fish", "#"), ("bash", "#")):
        assert cli.main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert script.startswith(beginning), shell
        assert "keep-images" in script


def test_without_its_package_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'lookonce[completion]'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["completion", "csh"])
    assert "choose from" in capsys.readouterr().err
