"""A connector whose inner work fails where a test says so, in vLLM's own processes."""

import os
from pathlib import Path
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

from lookonce_server.engines.vllm.connector.connector import ContextConnector

VARIABLE = "LOOKONCE_TEST_FAULT"  # names the file that says what fails next: an entry point, "layer" or "forward"
ENTRY_POINTS = [
    name for name in vars(ContextConnector) if name in vars(KVConnectorBase_V1) and not name.startswith("_")
]


class InjectedError(Exception):
    """Of a kind that nobody expects."""


def arm(name: str, rank: int = 0) -> None:
    """Have this fail once, in that rank."""
    Path(os.environ[VARIABLE]).write_text(f"{name} {rank}")


def disarm() -> None:
    """Have nothing fail."""
    Path(os.environ[VARIABLE]).unlink(missing_ok=True)


def is_armed() -> bool:
    """Whether it is still to fail."""
    return Path(os.environ[VARIABLE]).exists()


def _fire(name: str, rank: int) -> None:
    path = Path(os.environ[VARIABLE])
    if path.exists() and path.read_text() == f"{name} {rank}":
        path.unlink()
        raise InjectedError(f"injected into {name}")


class Faulty(ContextConnector):
    """Fails inside the entry point that is armed, at the first thing of ours that it uses."""

    _inside: str | None = None
    _rank = 0

    def attach(self, model: Any) -> None:
        from vllm.distributed import get_tensor_model_parallel_rank

        self._rank = get_tensor_model_parallel_rank()
        super().attach(model)
        layer = self._layers()[1]
        update, see = layer.impl.do_kv_cache_update, self._recorder._see

        def failing_update(*arguments: Any, **more: Any) -> Any:
            if self._inside == "start_load_kv":  # vLLM calls it too
                _fire("layer", self._rank)
            return update(*arguments, **more)

        def failing_see(index: int, *arguments: Any) -> None:
            if index:
                _fire("forward", self._rank)
            see(index, *arguments)

        layer.impl.do_kv_cache_update, self._recorder._see = failing_update, failing_see

    def __getattribute__(self, name: str) -> Any:
        inside = object.__getattribute__(self, "_inside")
        if inside is not None and name.startswith("_") and name not in ("_inside", "_rank"):
            _fire(inside, object.__getattribute__(self, "_rank"))
        found = object.__getattribute__(self, name)
        return self._entry(name, found) if name in ENTRY_POINTS else found

    def _entry(self, name: str, method: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            self._inside = name
            try:
                return method(*arguments, **more)
            finally:
                self._inside = None

        return call
