"""Run the `lookonce` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .._client import DEFAULT_SERVER, Client
from .._exceptions import LookonceError, ServerError
from . import completion, plugins
from .parser import COMMANDS, KEY_VARIABLE, SERVER_VARIABLE, parse
from .terminal import Terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    The code is 0 for success, 1 for a failure, 2 for wrong arguments or a package that is missing, and 130 for Ctrl-C.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # also where help has ended the command: here a failure is seen
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        _drop_output()
        return 1
    except OSError as error:  # of a file, a folder or a disk that is full
        _drop_output()
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)!r}: "
        sys.stderr.write(f"lookonce: {name}{error.strerror or error}\n")
        return 1


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name and name not in COMMANDS and not name.startswith("-") and (plugin := plugins.find().get(name)):
        return plugins.run(plugin, arguments[1:])
    if name == "completion":
        return completion.run(arguments[1:])
    args = parse(arguments)
    terminal = Terminal(args.color, os.environ)
    try:
        server = args.server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER
        api_key = args.api_key or os.environ.get(KEY_VARIABLE)
        with Client(server, api_key=api_key, timeout=args.timeout) as client:
            return int(args.run(client, args, terminal))
    except (LookonceError, ValueError) as error:
        terminal.print_error(_message(error))
        return 1


def _drop_output() -> None:
    """Discard what is not written yet, or Python would try once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _message(error: Exception) -> str:
    """Return an error's message; a failure of the server with the request's id."""
    request_id = error.request_id if isinstance(error, ServerError) else None
    return f"{error} (request {request_id})" if request_id else str(error)
