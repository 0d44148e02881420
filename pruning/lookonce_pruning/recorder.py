"""Record how much attention each image token draws in a describe pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookonce_pruning.architecture import attention_layers
from lookonce_pruning.attention import AttentionCall, Observing
from lookonce_pruning.capture import LayerCapture
from lookonce_pruning.errors import RecordingError
from lookonce_pruning.layout import TileLayout
from lookonce_pruning.scores import ImageScores
from lookonce_pruning.window import ScoreQueries


def query_rows(rows: ScoreQueries, *, query_start: int, prompt_length: int, total: int) -> range:
    """Return the absolute rows whose attention scores the image tokens.

    rows: "generated", every decoded token's row and the last prompt position's (the paper's choice); "query", the
    prompt's rows after the image, the chat template's own and the last position among them; "both", their union
    query_start: position after the image's last token
    prompt_length: tokens of the prompt
    total: tokens of the prompt and of the description that were run through the model

    Raises ValueError for another name.
    """
    match rows:
        case "generated":
            return range(prompt_length - 1, total)
        case "query":
            return range(query_start, prompt_length)
        case "both":
            return range(query_start, total)
        case _:
            raise ValueError(f"rows {rows!r}: expected 'generated', 'query' or 'both'")


class AttentionRecorder(Observing):
    """Record a describe pass run inside the block, in the same thread.

    Then ask for `scores`.

    The model's outputs are those of SDPA, and its attention implementation is put back on the way out. While the model
    runs only references are kept; every softmax row is computed afterwards, once, from the final keys (the rows of a
    causal model never change as keys are added). After Kaduri et al., arXiv 2411.17491, image re-prompting.

    model: any `*ForConditionalGeneration`; batches of one
    image_positions: [image tokens], int64, ascending: where the image tokens stand in the prompt; gaps are allowed
    prompt_length: tokens of the prompt, all prefilled inside the block, in one or several forward calls
    window: indices of attention layers to record, see `parse_window`
    grid, layout: of the image tokens, see `ImageScores`

    Raises ValueError for arguments that contradict each other. Inside the block the forward pass raises RecordingError
    for a cache that does not simply grow, and UnsupportedModelError when a row that scores sees more or less than the
    tokens before it, those of its layer's sliding window.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        image_positions: Tensor,
        prompt_length: int,
        window: range,
        grid: tuple[int, ...],
        layout: TileLayout | None = None,
    ) -> None:
        super().__init__(model)
        self._num_layers = len(attention_layers(model.config.get_text_config()))
        if not window or window.start < 0 or window.stop > self._num_layers:
            raise ValueError(f"window {window}: expected layers of 0-{self._num_layers}")
        if math.prod(grid) != len(image_positions) or not len(image_positions):
            raise ValueError(
                f"grid {grid}: expected as many cells as image tokens, {len(image_positions)}, at least one"
            )
        self._query_start = int(image_positions.max()) + 1
        if self._query_start >= prompt_length:
            raise ValueError(f"prompt_length {prompt_length}: expected text after the image's end {self._query_start}")
        self._image_positions = image_positions
        self._prompt_length = prompt_length
        self._grid = grid
        self._layout = layout
        self._captures = {layer: LayerCapture(self._query_start) for layer in window}

    def observe(self, layer: int, call: AttentionCall) -> Tensor | None:
        """Keep a call of a layer of the window; see `attention.AttentionHook`."""
        capture = self._captures.get(layer)
        if capture is not None:
            capture.add(call)
        return call.mask

    @torch.no_grad()
    def scores(self, rows: ScoreQueries = "generated") -> ImageScores:
        """Return the mean attention that each image token drew, per layer.

        The mean is over rows and heads.

        rows: see `query_rows`

        Raises RecordingError when a layer of the window saw less than the whole prompt, or less than other layers did.
        """
        return ImageScores(
            values=self.weights(self._recorded_rows(rows), self._image_positions).mean(dim=1),
            layers=tuple(self._captures),
            grid=self._grid,
            num_layers=self._num_layers,
            layout=self._layout,
        )

    @torch.no_grad()
    def weights(self, rows: range, columns: Tensor) -> Tensor:
        """Return the attention, mean over heads: [layers, rows, columns].

        It is float32, on the CPU, of the layers of the window.

        rows: absolute positions after the image, of the prompt or generated
        columns: [columns], int64, absolute positions, of the image or not

        Raises RecordingError for rows that were not recorded.
        """
        weights = [capture.rows(rows, columns) for capture in self._captures.values()]
        return torch.stack([layer.cpu() for layer in weights])  # layers may lie on several devices

    def _recorded_rows(self, rows: ScoreQueries) -> range:
        seen = {layer: capture.seen for layer, capture in self._captures.items()}
        total = max(seen.values())
        short = [layer for layer, count in seen.items() if count < max(total, self._prompt_length)]
        if short:
            raise RecordingError(
                f"layers {short} recorded too few tokens, {[seen[layer] for layer in short]}, of a prompt of"
                f" {self._prompt_length}; prefill and decode inside the recorder, in the thread that entered it"
            )
        return query_rows(rows, query_start=self._query_start, prompt_length=self._prompt_length, total=total)
