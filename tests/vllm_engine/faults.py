"""A connector whose inner work fails where a test says so, in vLLM's own processes."""

import os
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

from lookonce_server.engines.vllm.connector.connector import ContextConnector

BLIND = "LOOKONCE_TEST_BLIND"  # no worker can read from vLLM's cache where it is set
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


def most_held() -> int:
    """The most bytes that captures have held at the end of a step since this was last asked."""
    path = Path(f"{os.environ[VARIABLE]}.held")
    held = int(path.read_text()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return held


def _is_due(name: str, rank: int) -> bool:
    path = Path(os.environ[VARIABLE])
    due = path.exists() and path.read_text() == f"{name} {rank}"
    if due:
        path.unlink()
    return due


def _fire(name: str, rank: int) -> None:
    if _is_due(name, rank):
        raise InjectedError(f"injected into {name}")


class Faulty(ContextConnector):
    """Fails inside the entry point that is armed, at the first thing of ours that it uses."""

    _inside: str | None = None
    _rank = 0

    def attach(self, model: Any) -> None:
        from vllm.distributed import get_tensor_model_parallel_rank

        self._rank = get_tensor_model_parallel_rank()
        super().attach(model)
        if BLIND in os.environ:
            self._recorder.reader = None
        self._watch(self._recorder)
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

    def _watch(self, recorder: Any) -> None:
        """Write down what is held, and let an allocation fail where a capture is read."""
        end, layer_rows = recorder.end, recorder._layer_rows
        file = Path(f"{os.environ[VARIABLE]}.held")

        def weighing_end(steps: Any) -> Any:
            held = sum(captured.nbytes for captured in recorder._captured.values())
            if self._rank == 0 and held > (int(file.read_text()) if file.exists() else 0):
                file.write_text(str(held))
            if any(step.completes for step in steps):
                _fire("end", self._rank)
            return end(steps)

        def failing_rows(*arguments: Any) -> Any:
            if _is_due("allocation", self._rank):
                torch.empty(2**60)
            return layer_rows(*arguments)

        recorder.end, recorder._layer_rows = weighing_end, failing_rows

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
