"""Listening sockets: what becomes of clients that come when no descriptor is left."""

import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from lookonce_server.errors import StartError
from lookonce_server.http.protocol.listener import Listener, bind, listen


def listening(refused: list[str], max_connections: int = 100) -> list[Listener]:
    return listen(bind("127.0.0.1", 0), backlog=16, max_connections=max_connections, refused=refused.append)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """The process may not open another file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    filling = []
    try:
        while True:
            filling.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        yield
    finally:
        for one in filling:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_who_comes_when_no_descriptor_is_left_is_refused_and_not_left_waiting():
    refused: list[str] = []
    (listener,) = listening(refused)
    listener.setblocking(False)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    with no_descriptor_left():
        for _ in clients:
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert refused == ["too_many_connections"] * 3
    for client in clients:
        answer = b"".join(iter(lambda client=client: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        client.close()
    with socket.create_connection(listener.getsockname()) as client:  # as before
        connection, address = listener.accept()
        assert address == client.getsockname()
        connection.close()
    listener.close()


def test_a_client_that_goes_before_it_is_refused_is_no_harm():
    refused: list[str] = []
    (listener,) = listening(refused)
    listener.setblocking(False)
    socket.create_connection(listener.getsockname()).close()
    with no_descriptor_left(), pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()


def test_all_addresses_of_a_name_have_the_same_port():
    listeners = listen(bind("localhost", 0), backlog=16, max_connections=100, refused=print)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        with socket.create_connection(listener.getsockname()[:2]):
            pass
        listener.close()


def test_an_address_in_use_is_an_error_and_leaves_nothing_open():
    (listener,) = listening([])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match="in use"):
        bind("127.0.0.1", listener.getsockname()[1])
    assert len(os.listdir("/proc/self/fd")) == before
    listener.close()


def test_what_a_client_does_not_read_is_not_taken_by_the_kernel():
    """Or each client could have megabytes of it, and an answer would seem sent that nobody reads."""
    (listener,) = listening([])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        connection.setblocking(False)
        taken = 0
        with suppress(BlockingIOError):
            while taken < 10_000_000:
                taken += connection.send(bytes(65536))
        connection.close()
    listener.close()
    assert taken < 500_000
