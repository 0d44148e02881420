"""Capture keys, values and attention of describe passes, in each worker.

Each attention layer's `impl.forward` is wrapped: it is called with queries, keys and values after RoPE, whatever the
backend. Of captured prompts the queries that score are copied out; keys and values are read from the paged cache once
the prompt is whole, layer by layer. So what vLLM found in its prefix cache need not be computed again.

A cache that does not keep them as they are, as a quantised one, cannot be read from: there they are copied out too, of
prompts that are computed from their first token on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context

from lookonce_pruning import ImageScores, attention_rows, rope_of_config
from lookonce_server.engines.description import LayerRows, pack_rows
from lookonce_server.engines.vllm.connector.cache_reader import CacheReader
from lookonce_server.engines.vllm.connector.captured_rows import CapturedRows, CaptureError
from lookonce_server.engines.vllm.connector.guard import guarded, reason
from lookonce_server.engines.vllm.connector.messages import CapturedPrompt, CaptureStep, Compression


class KVRecorder:
    """Capture prompts as vLLM computes them.

    Args:
        layers: vLLM's attention layers, in the model's order; their forward methods are wrapped.
        reader: of their cache; None where it cannot be read from.
        model: vLLM's.
        config: the model's configuration, of transformers.
        uses_mrope: whether positions have several components.
        all_reduce: sums a tensor on the CPU over the tensor-parallel ranks, in place.
        ranks: how many there are.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        *,
        reader: CacheReader | None,
        model: Any,
        config: Any,
        uses_mrope: bool,
        all_reduce: Callable[[Tensor], Any],
        ranks: int,
    ) -> None:
        self._layers = layers
        self.reader = reader
        self._model = model
        self._rope = rope_of_config(config.get_text_config())
        self._uses_mrope = uses_mrope
        self._all_reduce = all_reduce
        self._ranks = ranks
        self._captured: dict[str, CapturedRows] = {}
        self._failures: dict[str, str] = {}  # why some of them cannot be captured any more
        self._ended: set[str] = set()  # whose results have been asked for
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
                self._captured[step.request_id] = CapturedRows(step.start, len(self._layers))
            self._captured[step.request_id].next = step.start + step.count

    def end(self, steps: Sequence[CaptureStep]) -> Iterator[CaptureStep]:
        """End the pass; yield the steps that completed a prompt, each once.

        They are the same ones on every rank, whatever went wrong there: `result` is to be asked for each.
        """
        self._steps = ()
        for step in steps:
            if step.completes and step.request_id not in self._ended:
                self._ended.add(step.request_id)
                yield step

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
            self._ended.discard(request_id)

    def result(self, step: CaptureStep) -> dict[str, Tensor]:
        """Return the keys and values of a captured prompt, on the CPU.

        With a compression they are the tensors of a `PackedPrompt`.

        Raises:
            CaptureError: rows or layers are missing.
            PruningError: the scores cannot be used.
        """
        compression = step.capture.compression
        if compression is None:
            return self._whole(step)
        attention, captured = self._share_attention(step, compression)
        prompt = step.prompt
        return pack_rows(
            ImageScores(attention, tuple(range(*compression.window)), prompt.grid, len(self._layers), prompt.layout),
            lambda layer, positions: self._layer_rows(step, captured, layer, positions),
            selection=compression.selection,
            retention=compression.retention,
            prompt_length=prompt.length,
            image_positions=torch.tensor(prompt.image_positions),
            rope=self._rope._replace(interleaved=compression.interleaved),
            next_position=prompt.length + self._position_delta(prompt),
        ).as_tensors()

    def _take(self, step: CaptureStep) -> CapturedRows:
        """Take the captured rows of a prompt out of the recorder."""
        captured = self._captured.pop(step.request_id, None)
        if step.request_id in self._failures or captured is None:
            raise CaptureError(self._failures.pop(step.request_id, "it was not seen"))
        return captured

    def _whole(self, step: CaptureStep) -> dict[str, Tensor]:
        """Return all rows that were computed, each part `[layers, kv_heads, rows, head_dim]`."""
        captured = self._take(step)
        positions = torch.arange(captured.first, len(step.prompt.token_ids))
        rows = [self._layer_rows(step, captured, layer, positions) for layer in range(len(self._layers))]
        return {
            "keys": torch.stack([each.keys.cpu() for each in rows]),
            "values": torch.stack([each.values.cpu() for each in rows]),
        }

    def _layer_rows(self, step: CaptureStep, captured: CapturedRows, layer: int, positions: Tensor) -> LayerRows:
        """Return keys and values of one layer at these positions of the prompt."""
        if self.reader is None:
            return captured.layer_rows(layer, positions, len(step.prompt.token_ids))
        return LayerRows(
            self.reader.keys(layer, step.block_ids, positions), self.reader.values(layer, step.block_ids, positions)
        )

    def _share_attention(self, step: CaptureStep, compression: Compression) -> tuple[Tensor, CapturedRows]:
        """Return the mean attention over all ranks, `[layers of the window, image tokens]`, and the captured rows.

        Every rank takes part in the one reduction, in memory that was there before, and tells whether it has its part:
        the others would wait for it for ever.
        """
        window, columns = range(*compression.window), len(step.prompt.image_positions)
        shared = torch.zeros(1 + len(window) * columns)  # first, how many ranks have their part
        result: CapturedRows | Exception
        try:
            result = self._take(step)
            shared[1:] = self._attention(step, result, window).flatten()
            shared[0] = 1
        except Exception as error:
            result = error
        if self._ranks > 1:
            self._all_reduce(shared)
        if isinstance(result, Exception):
            raise result
        if int(shared[0]) < self._ranks:
            raise CaptureError("another rank could not capture it")
        # Each rank has as many query heads as any other.
        return shared[1:].view(len(window), columns) / self._ranks, result

    def _attention(self, step: CaptureStep, captured: CapturedRows, window: range) -> Tensor:
        """Return this rank's mean attention, `[layers of the window, image tokens]`, on the CPU."""
        scored = step.prompt.scored
        if not scored or captured.first > (scored.start if self.reader else 0):
            raise CaptureError(f"the prompt was captured from token {captured.first} on, or has no image")
        image = torch.tensor(step.prompt.image_positions)
        means = []
        for layer in window:
            queries = captured.queries_of(layer, len(scored))
            keys = self._layer_rows(step, captured, layer, torch.arange(scored.stop)).keys.to(queries.device)
            scale = float(self._layers[layer].impl.scale)
            means.append(attention_rows(queries, keys, scored.start, image, scale).mean(dim=0))
        return torch.stack(means).cpu()

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
            if self.reader is None:
                captured.add_rows(index, key[row : row + step.count], value[row : row + step.count])
            compression, scored = step.capture.compression, step.prompt.scored
            if compression is not None and index in range(*compression.window):
                start, stop = max(step.start, scored.start), min(step.start + step.count, scored.stop)
                if start < stop:
                    captured.add_queries(index, query[row + start - step.start : row + stop - step.start])

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
