"""What `lookonce` answers without a server, a model or torch."""

import subprocess
import sys

# Each in one process, one after the other; what was imported by then is told with its exit code.
CODE = """
import sys
from lookonce.cli import main
HEAVY = {"torch", "transformers", "fastapi", "vllm", "numpy"}
for line in sys.argv[1:]:
    try:
        code = main(line.split())
    except SystemExit as error:
        code = error.code
    print("@", code, line, *sorted(HEAVY & sys.modules.keys()))
"""
HELP = ("--help", "serve --help", "new-key --help")
WRONG = ("serve --retentoin 0.1", "serve extra", "new-key a/b")
WRONG_VALUES = (
    "serve --retention 2",
    "serve --selection coverage:reach=0",
    "serve --precision int3",
    "serve --window",
    "serve --image-hosts *",
    "serve --image-networks 10.0.0.1/8",
    "serve --profile missing.json",
    "serve --config missing.toml",
    "serve --host 0.0.0.0",
)


def test_help_and_what_is_wrong_are_answered_without_torch(tmp_path):
    lines = (*HELP, *WRONG, *WRONG_VALUES)
    run = subprocess.run(
        [sys.executable, "-c", CODE, *lines], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True
    )
    told = [line for line in run.stdout.splitlines() if line.startswith("@")]
    codes = [0] * len(HELP) + [2] * len(WRONG) + [2 if line == "serve --window" else 1 for line in WRONG_VALUES]
    assert told == [f"@ {code} {line}" for code, line in zip(codes, lines, strict=True)]
