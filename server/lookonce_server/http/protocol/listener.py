"""Listen on sockets, and keep file descriptors for the rest of the process."""

import errno
import json
import logging
import os
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Any

from lookonce_server.errors import StartError, TooManyConnectionsError
from lookonce_server.http.errors import body_of

_log = logging.getLogger(__name__)
_RESERVED = 128  # descriptors for all else than connections: the store, files, the processes that decode images
_UNSENT_BYTES = 128 * 1024  # that the kernel takes for a client that does not read; by default it takes megabytes
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Listener(socket.socket):
    """Accept connections while descriptors are left, and refuse the others with a 503.

    asyncio accepts until nobody waits, and where a process has no descriptor left it tells of each attempt. So this
    socket takes none of the highest ones: those are for the rest of the process.

    Args:
        fileno: of a socket that listens.
        descriptors: connections have descriptors below that number.
        refused: is called for each connection that is refused.
    """

    def __init__(self, fileno: int, descriptors: int, refused: Callable[[str], None]) -> None:
        super().__init__(fileno=fileno)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)  # and of what it accepts
        self._descriptors = descriptors
        self._refused = refused
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket.

        Raises:
            BlockingIOError: nobody waits, or who waited was refused.
        """
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS:
                raise
            self._refuse_with_spare()
        else:
            if connection.fileno() < self._descriptors:
                return connection, address
            self._refuse(connection)
        raise BlockingIOError

    def close(self) -> None:
        """See socket."""
        super().close()
        self._close_spare()

    def _refuse_with_spare(self) -> None:
        """Refuse a waiting connection, which would wake the event loop for ever."""
        self._close_spare()
        try:
            connection, _ = super().accept()
            self._refuse(connection)
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another thread has taken it meanwhile: the next attempt
            self._refused(_CODE)

    def _refuse(self, connection: socket.socket) -> None:
        self._refused(_CODE)
        try:
            connection.setblocking(False)
            connection.send(_REFUSAL)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone
        finally:
            connection.close()

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a port on each address of a host, without listening yet.

    Args:
        host: a name or an address.
        port: 0 takes a free one, the same on each address.

    Raises:
        StartError: an address is in use, or none can be had; it names what to do.
    """
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
            same_port = sockets[0].getsockname()[1] if sockets else port
            bound = _socket(family, (address[0], same_port, *address[2:]))
            if bound is not None:
                sockets.append(bound)
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise StartError(_bind_error(host, port, error)) from error
    if not sockets:
        raise StartError(_bind_error(host, port, OSError(errno.EADDRNOTAVAIL, "")))
    return sockets


def listen(
    sockets: Sequence[socket.socket], *, backlog: int, max_connections: int, refused: Callable[[str], None]
) -> list[Listener]:
    """Listen on sockets, and let the process open as many files as that takes.

    Args:
        sockets: bound ones that do not listen yet.
        backlog: connections that may wait to be accepted.
        max_connections: that will be open at once.
        refused: is called with an error's code for each connection that is refused.

    Raises:
        OSError: another process listens there by now.
    """
    descriptors = _descriptors_for(max_connections)
    for bound in sockets:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for the next server, while connections linger
        bound.listen(backlog)
    return [Listener(bound.detach(), descriptors, refused) for bound in sockets]


def _socket(family: int, address: Sequence[Any]) -> socket.socket | None:
    """Bind a socket to an address; None if this machine has no such address.

    At first it is taken without SO_REUSEADDR: or a second server could take it too while neither listens.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind(tuple(address))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server linger
            bound.bind(tuple(address))
    except OSError as error:
        bound.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
    return bound


def _bind_error(host: str, port: int, error: OSError) -> str:
    """Say in one sentence why an address cannot be bound."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"--port {port}: it is in use on {host} already. Stop what listens there, or give another; 0 is a free one."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port {port}: this user may not listen on it. Give one from 1024 on, or the right to lower ones."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"--host {host}: it is no address of this machine. Give one that is; 127.0.0.1 is for this machine alone."
        )
    return f"--host {host}, --port {port}: the address cannot be listened on: {error.strerror or error}."


def _descriptors_for(max_connections: int) -> int:
    """Raise the limit on open files; return the share of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return needed
    if soft < needed:
        available = soft - min(_RESERVED, soft // 2)
        _log.warning(
            "this process may open %d files, which is enough for about %d connections, not for --max-connections %d:"
            " more are refused; raise the limit (ulimit -n, LimitNOFILE=)",
            soft,
            available,
            max_connections,
        )
        return available
    return soft - _RESERVED


def _refusal() -> bytes:
    content = json.dumps(body_of(TooManyConnectionsError())).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        f"connection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


_CODE = "too_many_connections"
_REFUSAL = _refusal()
