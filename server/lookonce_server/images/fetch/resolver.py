"""From a host's name to its addresses."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from lookonce_server.images.fetch.addresses import Address

Resolve = Callable[[str], Awaitable[list[Address]]]


class SystemResolver:
    """Asks the system, in threads of its own: a slow name server holds up nothing else.

    Args:
        at_once: how many names are asked for at a time.
    """

    def __init__(self, at_once: int) -> None:
        self._threads = ThreadPoolExecutor(at_once, "resolve")

    async def __call__(self, host: str) -> list[Address]:
        """A name's addresses, best first.

        Raises:
            OSError: it has none, or nobody knows.
        """
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return [ipaddress.ip_address(one) for one in dict.fromkeys(found)]


def _look_up(host: str) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except UnicodeError as error:  # a label that is too long
        raise OSError(str(error)) from None
