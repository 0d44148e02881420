"""The `lookonce` command: ask about an image, chat, describe it, see what is kept, and what others add to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .._client import DEFAULT_SERVER, Client
from .._exceptions import LookonceError, ServerError
from . import plugins
from .parser import COMMANDS, KEY_VARIABLE, SERVER_VARIABLE, parse
from .terminal import Terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    That is 0 when it is done, 1 when it failed, 2 when it was called wrongly or is not installed, and 130 when Ctrl-C
    ended it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name and name not in COMMANDS and not name.startswith("-") and (plugin := plugins.find().get(name)):
        return plugins.run(plugin, arguments[1:])
    options = parse(arguments)
    terminal = Terminal(options.color, os.environ)
    try:
        server = options.server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER
        api_key = options.api_key or os.environ.get(KEY_VARIABLE)
        with Client(server, api_key=api_key, timeout=options.timeout) as client:
            code = int(options.run(client, options, terminal))
        sys.stdout.flush()
        return code
    except (LookonceError, ValueError) as error:
        terminal.complain(_said(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try once more at its end
        return 1


def _said(error: Exception) -> str:
    """An error in its words; one of the server's own with the name that its operator finds it by."""
    name = error.request_id if isinstance(error, ServerError) else None
    return f"{error} (request {name})" if name else str(error)
