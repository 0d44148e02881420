"""Capturing keys, values and attention of a describe pass, in each worker, as vLLM computes them.

Each attention layer's `impl.forward` is wrapped: it is called with queries, keys and values after RoPE, whatever the
backend. Rows of captured prompts are copied out; scores are computed once, from the copies, when the prompt is whole.
The paged cache is never read.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context

from lookonce_pruning import (
    ImageScores,
    PackedContext,
    attention_rows,
    compress,
    get_selection,
    inv_freq_of_config,
    kept_count,
)
from lookonce_server.engines.vllm.connector.guard import guarded, reason
from lookonce_server.engines.vllm.connector.messages import CapturedPrompt, CaptureStep, Compression


class CaptureError(Exception):
    """What was captured is not whole, or cannot be compressed."""


class _Captured:
    """What is captured of one prompt so far."""

    def __init__(self, step: CaptureStep, layers: int) -> None:
        columns = step.prompt.image_positions
        self.first = step.start  # rows before it were not computed by this request
        self.next = step.start
        self.query_start = columns[-1] + 1 if columns else None  # rows from it on are scored
        self.keys: list[list[Tensor]] = [[] for _ in range(layers)]  # each [rows, kv_heads, head_dim]
        self.values: list[list[Tensor]] = [[] for _ in range(layers)]
        self.queries: list[list[Tensor]] = [[] for _ in range(layers)]  # each [rows, heads, head_dim]

    def whole(self, parts: list[list[Tensor]], layer: int, expected: int) -> Tensor:
        """One layer's parts, `[heads, rows, head_dim]`."""
        rows = sum(len(part) for part in parts[layer])
        if rows != expected:
            raise CaptureError(f"layer {layer} was seen at {rows} of {expected} tokens")
        return torch.cat(parts[layer]).transpose(0, 1)


class _Attended(NamedTuple):
    """A captured prompt, and this rank's attention to its image."""

    keys: Tensor  # [layers, kv_heads, rows, head_dim]
    values: Tensor  # like keys
    attention: Tensor  # [layers of the window, image tokens]


class KVRecorder:
    """Captures prompts.

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
        self._inv_freq = inv_freq_of_config(config.get_text_config())
        self._uses_mrope = uses_mrope
        self._all_reduce = all_reduce
        self._ranks = ranks
        self._captured: dict[str, _Captured] = {}
        self._failures: dict[str, str] = {}  # why some of them cannot be captured any more
        self._steps: Sequence[CaptureStep] = ()
        self._rows: dict[str, int] = {}  # where each prompt's rows start in this step's batch
        for index, layer in enumerate(layers):
            self._wrap(index, layer)

    def begin(self, steps: Sequence[CaptureStep]) -> None:
        """Capture these in the forward pass that follows."""
        self._steps = steps
        self._rows = {}
        for step in steps:
            captured = self._captured.get(step.request_id)
            if captured is None or step.start != captured.next:  # the first step, or the first after a preemption
                self._captured[step.request_id] = _Captured(step, len(self._layers))
            self._captured[step.request_id].next = step.start + step.count

    def end(self, steps: Sequence[CaptureStep]) -> list[CaptureStep]:
        """The forward pass of these is over; those that completed their prompt: the same on every rank."""
        self._steps = ()
        return [step for step in steps if step.start + step.count >= len(step.prompt.token_ids)]

    def fail(self, steps: Sequence[CaptureStep], why: str) -> None:
        """Have `result` fail for these, and see nothing more of this step."""
        self._steps = ()
        for step in steps:
            self._captured.pop(step.request_id, None)
            self._failures[step.request_id] = why

    def forget(self, request_ids: set[str]) -> None:
        """Let go of what was captured for these."""
        for request_id in request_ids:
            self._captured.pop(request_id, None)
            self._failures.pop(request_id, None)

    def result(self, step: CaptureStep) -> dict[str, Tensor]:
        """What was captured of a prompt, on the CPU: keys, values, and with a compression kept
        indices, scores, grid, the number of tokens before the image, and by how much the keys were moved.

        Raises:
            CaptureError: rows or layers are missing.
            PruningError: the scores cannot be used.
        """
        compression = step.capture.compression
        if compression is None:
            keys, values = self._whole(step, self._taken(step))
            return _on_cpu(keys=keys, values=values)
        keys, values, attention = self._with_attention(step)
        total = self._all_reduce(attention) / self._ranks  # each rank has as many query heads as any other
        scores = ImageScores(total.cpu(), tuple(range(*compression.window)), step.prompt.grid, len(self._layers))
        image = torch.tensor(step.prompt.image_positions)
        kept = get_selection(compression.selection).select(scores, kept_count(compression.retention, len(image)))
        packed = self._packed(step, keys, values, image, kept)
        return _on_cpu(
            keys=packed.keys,
            values=packed.values,
            kept=kept.to(torch.int32),
            scores=scores.values.mean(dim=0),
            grid=torch.tensor(scores.grid),
            shared_tokens=image[:1],
            moved_by=torch.tensor([packed.moved_by]),
        )

    def _taken(self, step: CaptureStep) -> _Captured:
        """What was captured of a prompt; it is forgotten here."""
        captured = self._captured.pop(step.request_id, None)
        if step.request_id in self._failures or captured is None:
            raise CaptureError(self._failures.pop(step.request_id, "it was not seen"))
        return captured

    def _whole(self, step: CaptureStep, captured: _Captured) -> tuple[Tensor, Tensor]:
        """Keys and values, each `[layers, kv_heads, rows, head_dim]`."""
        rows = len(step.prompt.token_ids) - captured.first
        every = range(len(self._layers))
        keys = torch.stack([captured.whole(captured.keys, layer, rows) for layer in every])
        values = torch.stack([captured.whole(captured.values, layer, rows) for layer in every])
        return keys, values

    def _with_attention(self, step: CaptureStep) -> _Attended:
        """Keys, values and this rank's attention to the image, if every rank has them.

        Whatever a rank fails at, it tells the others: they would wait for it in the reduction for ever.
        """
        found: _Attended | Exception
        try:
            captured = self._taken(step)
            if captured.first or captured.query_start is None:
                raise CaptureError(f"the prompt was captured from token {captured.first} on, or has no image")
            keys, values = self._whole(step, captured)
            found = _Attended(keys, values, self._attention(step, captured, captured.query_start, keys))
        except Exception as error:
            found = error
        able = self._all_reduce(torch.tensor([float(not isinstance(found, Exception))], device=self._device))
        if isinstance(found, Exception):
            raise found
        if int(able) < self._ranks:
            raise CaptureError("another rank could not capture it")
        return found

    def _packed(self, step: CaptureStep, keys: Tensor, values: Tensor, image: Tensor, kept: Tensor) -> PackedContext:
        length = step.prompt.length
        return compress(
            keys,
            values,
            prompt_length=length,
            image_positions=image,
            kept=kept,
            inv_freq=self._inv_freq,
            next_position=length + self._position_delta(step.prompt),
        )

    def _attention(self, step: CaptureStep, captured: _Captured, query_start: int, keys: Tensor) -> Tensor:
        """Mean over this rank's heads and the scoring rows, `[layers of the window, image tokens]`."""
        assert step.capture.compression is not None
        rows = _scored_rows(step.capture.compression, query_start, step)
        image = torch.tensor(step.prompt.image_positions)
        values = []
        for layer in range(*step.capture.compression.window):
            queries = captured.whole(captured.queries, layer, len(step.prompt.token_ids) - query_start)
            wanted = queries[:, rows.start - query_start : rows.stop - query_start]
            attention = attention_rows(
                wanted, keys[layer][:, : rows.stop], rows.start, image, float(self._layers[layer].impl.scale)
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
        """Copy the captured prompts' rows; the forward pass of everybody goes on, whatever comes of it."""
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

    def _see_queries(self, index: int, step: CaptureStep, captured: _Captured, query: Tensor) -> None:
        compression = step.capture.compression
        if compression is None or captured.query_start is None or index not in range(*compression.window):
            return
        scored = query[max(0, captured.query_start - step.start) :]
        if len(scored):
            captured.queries[index].append(scored.clone())

    def _row(self, step: CaptureStep, slots: Tensor) -> int | None:
        """Where a prompt's rows start in the batch: looked for once a step, since it waits for the device."""
        if step.request_id not in self._rows:
            found = torch.eq(slots, step.first_slot).nonzero()
            if not len(found):
                return None
            self._rows[step.request_id] = int(found[0])
        return self._rows[step.request_id]

    def _position_delta(self, prompt: CapturedPrompt) -> int:
        """How far a text token's position after the image is from its index; the model knows."""
        if not self._uses_mrope:
            return 0
        _, delta = self._model.get_mrope_input_positions(list(prompt.token_ids), list(prompt.image_features))
        return int(delta)


def _scored_rows(compression: Compression, query_start: int, step: CaptureStep) -> range:
    """The rows whose attention scores the image: see `AttentionRecorder.scores`."""
    total = len(step.prompt.token_ids)
    length = step.prompt.length
    match compression.rows:
        case "generated":
            return range(length - 1, total)
        case "query":
            return range(query_start, length)
        case "both":
            return range(query_start, total)


def _on_cpu(**tensors: Tensor) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
