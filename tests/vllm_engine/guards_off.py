"""The connector without its guards: what goes wrong then is shown to be real, before the guards are shown to work."""

from dataclasses import replace
from typing import Any

import torch
from vllm.v1.request import Request

from lookonce_server.engines.vllm import positions
from lookonce_server.engines.vllm.connector.connector import ContextConnector
from lookonce_server.engines.vllm.connector.messages import CaptureStep
from lookonce_server.engines.vllm.connector.recorder import KVRecorder


class Unguarded(ContextConnector):
    """Believes what it is told, and reports no failure."""

    def on_new_request(self, request: Request) -> None:
        """Leaves the request as it is."""

    def update_state_after_alloc(self, request: Request, blocks: Any, num_external_tokens: int) -> None:
        salt, request.cache_salt = request.cache_salt, "any"
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        request.cache_salt = salt

    def get_block_ids_with_load_errors(self) -> set[int]:
        super().get_block_ids_with_load_errors()
        return set()

    def attach(self, model: Any) -> None:
        super().attach(model)
        self._recorder = _Trusting(self._recorder)


class Forgetful(ContextConnector):
    """Leaves the first token of every context out."""

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        plan = self._plan()
        plan.loads = [replace(step, start=1) for step in plan.loads]
        super().start_load_kv(forward_context, **kwargs)


class Credulous(ContextConnector):
    """Takes no configuration's word for what queries are scaled by: what is left is to try the layers."""

    def attach(self, model: Any) -> None:
        believed, positions.check_scaling = positions.check_scaling, lambda config, last: None
        try:
            super().attach(model)
        finally:
            positions.check_scaling = believed


class _Trusting:
    """Takes rows that were never seen for zeros."""

    def __init__(self, recorder: KVRecorder) -> None:
        self._recorder = recorder

    def begin(self, steps: list[CaptureStep]) -> None:
        self._recorder.begin(steps)

    @property
    def reader(self) -> Any:
        return self._recorder.reader

    def end(self, steps: list[CaptureStep]) -> Any:
        return self._recorder.end(steps)

    def forget(self, request_ids: set[str]) -> None:
        self._recorder.forget(request_ids)

    def result(self, step: CaptureStep) -> dict[str, torch.Tensor]:
        captured = self._recorder._captured[step.request_id]
        compression, missing = step.capture.compression, captured.first - step.prompt.scored.start
        if compression is None or compression.retention == 1 or missing <= 0:  # with everything kept, it does not trust
            return self._recorder.result(step)
        for layer in captured._queries:
            if layer:
                layer.insert(0, layer[0].new_zeros(missing, *layer[0].shape[1:]))
        captured.first = 0
        return self._recorder.result(step)
