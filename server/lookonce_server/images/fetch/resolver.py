"""Resolve host names to addresses."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from lookonce_server.images.fetch.addresses import Address

Resolve = Callable[[str], Awaitable[list[Address]]]


class SystemResolver:
    """Resolve names with the system's resolver, in threads of its own.

    Args:
        at_once: number of names resolved at a time.
    """

    def __init__(self, at_once: int) -> None:
        self._threads = ThreadPoolExecutor(at_once, "resolve")

    async def __call__(self, host: str) -> list[Address]:
        """Return a name's addresses, best first.

        Raises:
            OSError: it has none, or cannot be resolved.
        """
        addresses = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return [ipaddress.ip_address(address) for address in dict.fromkeys(addresses)]


def _look_up(host: str) -> list[str]:
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except UnicodeError as error:  # a label that is too long
        raise OSError(str(error)) from None
