"""The vLLM engine with a clock in its worker: how long loads and captures hold a step.

The clock is in a subclass of the connector that vLLM is told to make in its place: a server knows nothing of it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, ParamSpec, TypeVar

from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from lookonce_server.engines.vllm import VllmEngine, options
from lookonce_server.engines.vllm.connector.connector import ContextConnector
from lookonce_server.engines.vllm.connector.messages import CaptureStep, StepPlan
from lookonce_server.engines.vllm.connector.recorder import KVRecorder
from lookonce_server.engines.vllm.connector.worker import WorkerExtension

P = ParamSpec("P")
T = TypeVar("T")


class StepTime(NamedTuple):
    """What a step of vLLM's that loads contexts, or ends captured prefills, spends on them, in seconds."""

    loads: int
    loading: float  # reading the files, and writing to the paged cache
    captures: int
    compressing: float  # scoring, choosing and packing what was captured
    writing: float  # the results, to the spool
    whole: float  # of the step, the model's own work included


class ClockedConnector(ContextConnector):
    """Notes what it does in each step. Made by vLLM."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._noted: list[StepTime] = []
        self._begun = time.perf_counter()
        self._spent: dict[str, list[float]] = {}

    def noted(self) -> list[StepTime]:
        """What was noted since this was last asked."""
        noted, self._noted = self._noted, []
        return noted

    def attach(self, model: Any) -> None:
        """See `ContextConnector.attach`."""
        super().attach(model)
        assert self._injector is not None
        assert self._recorder is not None
        self._injector.load = self._timed("load", self._injector.load)  # type: ignore[method-assign]
        self._recorder.result = self._timed("result", self._recorder.result)  # type: ignore[method-assign]

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """See vLLM: a step begins."""
        self._begun = time.perf_counter()
        self._spent = {"load": [], "result": [], "capture": []}
        assert isinstance(connector_metadata, StepPlan)
        connector_metadata.captures = [_with_decoding(step) for step in connector_metadata.captures]
        super().bind_connector_metadata(connector_metadata)

    def wait_for_save(self) -> None:
        """See vLLM: the model is through with the step."""
        super().wait_for_save()
        loads, results, captures = (self._spent[name] for name in ("load", "result", "capture"))
        if loads or captures:
            self._noted.append(
                StepTime(
                    loads=len(loads),
                    loading=sum(loads),
                    captures=len(captures),
                    compressing=sum(results),
                    writing=sum(captures) - sum(results),
                    whole=time.perf_counter() - self._begun,
                )
            )

    def _write(self, recorder: KVRecorder, step: CaptureStep) -> None:
        self._timed("capture", super()._write)(recorder, step)

    def _timed(self, name: str, work: Callable[P, T]) -> Callable[P, T]:
        def timed(*arguments: P.args, **named: P.kwargs) -> T:
            started = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                self._spent[name].append(time.perf_counter() - started)

        return timed


def _with_decoding(step: CaptureStep) -> CaptureStep:
    """A negative `said` stands for that many tokens still to be generated, whose rows are captured as they are."""
    said = -step.capture.said
    if said <= 0:
        return step
    ids = step.prompt.token_ids
    prompt = replace(step.prompt, token_ids=ids + (0,) * said, length=len(ids))
    return replace(step, capture=replace(step.capture, said=said), prompt=prompt)


class ClockedWorker(WorkerExtension):
    """The worker's side of `ClockedEngine.noted`."""

    def lookonce_noted(self) -> list[StepTime]:
        """What the connector noted since this was last asked."""
        connector = get_kv_transfer_group()
        assert isinstance(connector, ClockedConnector)
        return connector.noted()


class ClockedEngine(VllmEngine):
    """A `VllmEngine` started within `clocked()`."""

    async def noted(self) -> list[StepTime]:
        """The steps since this was last asked that loaded or captured."""
        (noted,) = await self._requests._llm.collective_rpc("lookonce_noted")
        return [StepTime(*one) for one in noted]

    async def forget(self) -> None:
        """Empty all of vLLM's caches."""
        llm = self._requests._llm
        if not await llm.reset_prefix_cache():
            raise SystemExit("bench: vLLM's prefix cache is in use, and was not emptied")
        await llm.reset_mm_cache()
        await llm.reset_encoder_cache()


@contextmanager
def clocked() -> Iterator[None]:
    """Engines started in the block have a clock."""
    before = options.CONNECTOR, options.CONNECTOR_MODULE, options.WORKER_EXTENSION
    options.CONNECTOR, options.CONNECTOR_MODULE = ClockedConnector.__name__, __name__
    options.WORKER_EXTENSION = f"{__name__}.{ClockedWorker.__name__}"
    try:
        yield
    finally:
        options.CONNECTOR, options.CONNECTOR_MODULE, options.WORKER_EXTENSION = before
