"""Capture keys, values and attention of describe passes, in each worker.

Each attention layer's `impl.forward` is wrapped: it is called with queries, keys and values after RoPE, whatever the
backend. Rows of captured prompts are copied out; scores are computed once, from the copies, when the prompt is whole.
The paged cache is never read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context

from lookonce_pruning import ImageScores, attention_rows, query_rows, rope_of_config
from lookonce_server.engines.description import pack_prompt
from lookonce_server.engines.vllm.connector.guard import guarded, reason
from lookonce_server.engines.vllm.connector.messages import CapturedPrompt, CaptureStep


class CaptureError(Exception):
    """The capture is not whole, or cannot be compressed."""


class _CaptureBuffers:
    """The captured rows of one prompt."""

    def __init__(self, step: CaptureStep, layers: int) -> None:
        columns = step.prompt.image_positions
        self.first = step.start  # rows before it were not computed by this request
        self.next = step.start
        self.query_start = columns[-1] + 1 if columns else None  # rows from it on are scored
        self.keys: list[list[Tensor]] = [[] for _ in range(layers)]  # each [rows, kv_heads, head_dim]
        self.values: list[list[Tensor]] = [[] for _ in range(layers)]
        self.queries: list[list[Tensor]] = [[] for _ in range(layers)]  # each [rows, heads, head_dim]

    def whole(self, parts: list[list[Tensor]], layer: int, expected: int) -> Tensor:
        """Join one layer's parts, `[heads, rows, head_dim]`."""
        rows = sum(len(part) for part in parts[layer])
        if rows != expected:
            raise CaptureError(f"layer {layer} was seen at {rows} of {expected} tokens")
        return torch.cat(parts[layer]).transpose(0, 1)


class _Attended(NamedTuple):
    """A captured prompt and this rank's attention to its image."""

    keys: Tensor  # [layers, kv_heads, rows, head_dim]
    values: Tensor  # like keys
    attention: Tensor  # [layers of the window, image tokens]


class KVRecorder:
    """Capture prompts as vLLM computes them.

    Args:
        layers: vLLM's attention layers, in the model's order; their forward methods are wrapped.
        model: vLLM's.
        config: the model's configuration, of transformers.
        uses_mrope: whether positions have several components.
        all_reduce: sums a tensor over the tensor-parallel ranks.
        ranks: how many there are.
    """

    def __init__(
        self, layers: Sequence[Any], *, model: Any, config: Any, uses_mrope: bool, all_reduce: Any, ranks: int
    ) -> None:
        self._layers = layers
        self._device = layers[0].kv_cache.device
        self._model = model
        self._rope = rope_of_config(config.get_text_config())
        self._uses_mrope = uses_mrope
        self._all_reduce = all_reduce
        self._ranks = ranks
        self._captured: dict[str, _CaptureBuffers] = {}
        self._failures: dict[str, str] = {}  # why some of them cannot be captured any more
        self._steps: Sequence[CaptureStep] = ()
        self._rows: dict[str, int] = {}  # where each prompt's rows start in this step's batch
        for index, layer in enumerate(layers):
            self._wrap(index, layer)

    def begin(self, steps: Sequence[CaptureStep]) -> None:
        """Capture these steps in the forward pass that follows."""
        self._steps = steps
        self._rows = {}
        for step in steps:
            captured = self._captured.get(step.request_id)
            if captured is None or step.start != captured.next:  # the first step, or the first after a preemption
                self._captured[step.request_id] = _CaptureBuffers(step, len(self._layers))
            self._captured[step.request_id].next = step.start + step.count

    def end(self, steps: Sequence[CaptureStep]) -> list[CaptureStep]:
        """End the pass; return the steps that completed a prompt, on every rank."""
        self._steps = ()
        return [step for step in steps if step.start + step.count >= len(step.prompt.token_ids)]

    def fail(self, steps: Sequence[CaptureStep], why: str) -> None:
        """Have `result` fail for these, and observe nothing more of this step."""
        self._steps = ()
        for step in steps:
            self._captured.pop(step.request_id, None)
            self._failures[step.request_id] = why

    def forget(self, request_ids: set[str]) -> None:
        """Drop the captures of these requests."""
        for request_id in request_ids:
            self._captured.pop(request_id, None)
            self._failures.pop(request_id, None)

    def result(self, step: CaptureStep) -> dict[str, Tensor]:
        """Return the keys and values of a captured prompt, on the CPU.

        With a compression they are the tensors of a `PackedPrompt`.

        Raises:
            CaptureError: rows or layers are missing.
            PruningError: the scores cannot be used.
        """
        compression = step.capture.compression
        if compression is None:
            keys, values = self._join_rows(step, self._take(step))
            return {"keys": keys.cpu().contiguous(), "values": values.cpu().contiguous()}
        keys, values, attention = self._compute_attention(step)
        total = self._all_reduce(attention) / self._ranks  # each rank has as many query heads as any other
        prompt = step.prompt
        return pack_prompt(
            ImageScores(total.cpu(), tuple(range(*compression.window)), prompt.grid, len(self._layers), prompt.layout),
            keys,
            values,
            selection=compression.selection,
            retention=compression.retention,
            prompt_length=prompt.length,
            image_positions=torch.tensor(prompt.image_positions),
            rope=self._rope._replace(interleaved=compression.interleaved),
            next_position=prompt.length + self._position_delta(prompt),
        ).as_tensors()

    def _take(self, step: CaptureStep) -> _CaptureBuffers:
        """Take the captured rows of a prompt out of the recorder."""
        captured = self._captured.pop(step.request_id, None)
        if step.request_id in self._failures or captured is None:
            raise CaptureError(self._failures.pop(step.request_id, "it was not seen"))
        return captured

    def _join_rows(self, step: CaptureStep, captured: _CaptureBuffers) -> tuple[Tensor, Tensor]:
        """Return keys and values, each `[layers, kv_heads, rows, head_dim]`."""
        rows = len(step.prompt.token_ids) - captured.first
        every = range(len(self._layers))
        keys = torch.stack([captured.whole(captured.keys, layer, rows) for layer in every])
        values = torch.stack([captured.whole(captured.values, layer, rows) for layer in every])
        return keys, values

    def _compute_attention(self, step: CaptureStep) -> _Attended:
        """Return keys, values and this rank's attention, if every rank has them.

        Whatever a rank fails at, it tells the others: they would wait for it in the reduction for ever.
        """
        result: _Attended | Exception
        try:
            captured = self._take(step)
            if captured.first or captured.query_start is None:
                raise CaptureError(f"the prompt was captured from token {captured.first} on, or has no image")
            keys, values = self._join_rows(step, captured)
            result = _Attended(keys, values, self._attention(step, captured, captured.query_start, keys))
        except Exception as error:
            result = error
        able = self._all_reduce(torch.tensor([float(not isinstance(result, Exception))], device=self._device))
        if isinstance(result, Exception):
            raise result
        if int(able) < self._ranks:
            raise CaptureError("another rank could not capture it")
        return result

    def _attention(self, step: CaptureStep, captured: _CaptureBuffers, query_start: int, keys: Tensor) -> Tensor:
        """Return this rank's mean attention, `[layers of the window, image tokens]`."""
        assert step.capture.compression is not None
        prompt, compression = step.prompt, step.capture.compression
        total = len(prompt.token_ids)
        rows = query_rows(compression.rows, query_start=query_start, prompt_length=prompt.length, total=total)
        image = torch.tensor(prompt.image_positions)
        values = []
        for layer in range(*compression.window):
            queries = captured.whole(captured.queries, layer, total - query_start)
            queries = queries[:, rows.start - query_start : rows.stop - query_start]
            attention = attention_rows(
                queries, keys[layer][:, : rows.stop], rows.start, image, float(self._layers[layer].impl.scale)
            )
            values.append(attention.mean(dim=0))
        return torch.stack(values)

    def _wrap(self, index: int, layer: Any) -> None:
        forward = layer.impl.forward

        def recording(owner: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._steps:
                self._observe(index, owner.layer_name, query, key, value)
            return forward(owner, query, key, value, *args, **kwargs)

        layer.impl.forward = recording

    def _miss(self, error: Exception, *seen: Any) -> None:
        self.fail(self._steps, f"it was not seen: {reason(error)}")

    @guarded(_miss)
    def _observe(self, index: int, name: str, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Copy the captured prompts' rows; the forward pass goes on regardless."""
        self._see(index, name, query, key, value)

    def _see(self, index: int, name: str, query: Tensor, key: Tensor, value: Tensor) -> None:
        slots: Any = get_forward_context().slot_mapping
        if not isinstance(slots, dict) or name not in slots:
            return  # a warm-up, or a batch that is split: nothing is captured, and `result` says so
        for step in self._steps:
            if step.request_id in self._failures:
                continue
            row = self._row(step, slots[name])
            if row is None:
                continue
            captured = self._captured[step.request_id]
            rows = slice(row, row + step.count)
            captured.keys[index].append(key[rows].clone())
            captured.values[index].append(value[rows].clone())
            self._see_queries(index, step, captured, query[rows])

    def _see_queries(self, index: int, step: CaptureStep, captured: _CaptureBuffers, query: Tensor) -> None:
        compression = step.capture.compression
        if compression is None or captured.query_start is None or index not in range(*compression.window):
            return
        scored = query[max(0, captured.query_start - step.start) :]
        if len(scored):
            captured.queries[index].append(scored.clone())

    def _row(self, step: CaptureStep, slots: Tensor) -> int | None:
        """Find a prompt's first row in the batch, once a step: it waits for the device."""
        if step.request_id not in self._rows:
            rows = torch.eq(slots, step.first_slot).nonzero()
            if not len(rows):
                return None
            self._rows[step.request_id] = int(rows[0])
        return self._rows[step.request_id]

    def _position_delta(self, prompt: CapturedPrompt) -> int:
        """Ask the model how far the next position is from the token count."""
        if not self._uses_mrope:
            return 0
        _, delta = self._model.get_mrope_input_positions(list(prompt.token_ids), list(prompt.image_features))
        return int(delta)
