"""Plan the workers' steps from requests, in vLLM's scheduler.

Invariant: a context's placeholder tokens are never computed, and never found in the prefix cache under another
context's name. vLLM is told that all of them are cached outside, and a request that finds only some of them in vLLM's
own prefix cache loads the rest. A request that could break this, which the server never sends, ends with an error.
"""

import os
from dataclasses import dataclass, field, replace
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from lookonce_pruning import TileLayout, query_rows
from lookonce_server.engines.media import fitting_layout, media_grid
from lookonce_server.engines.vllm.connector.guard import log_failure
from lookonce_server.engines.vllm.connector.messages import (
    Capture,
    CapturedPrompt,
    CaptureStep,
    Job,
    LoadStep,
    StepPlan,
)

_GRIDS = ("image_grid_thw", "video_grid_thw")
# What M-RoPE positions are made of; pixels are never sent along.
_POSITION_FIELDS = (*_GRIDS, "second_per_grid_ts", "timestamps")


@dataclass
class _CaptureState:
    """A captured request under way."""

    capture: Capture
    prompt: CapturedPrompt
    block_ids: list[int] = field(default_factory=list)


class ConnectorScheduler:
    """Decide on loads and captures within vLLM's scheduler.

    Args:
        config: the model's configuration, of transformers.
        block_size: tokens in a block of the KV cache.
    """

    def __init__(self, config: Any, block_size: int) -> None:
        self._config = config
        self._block_size = block_size
        self._loads: list[LoadStep] = []
        self._refused: set[int] = set()
        self._captured: dict[str, _CaptureState] = {}
        self._failed: set[str] = set()  # of these
        self._tiers: dict[str, str | None] = {}  # where each answer pass found its context

    def on_arrival(self, request: Request) -> None:
        """Have a context loaded, and rows that score computed, whatever is cached.

        A request with prompt_logprobs wants all tokens computed. vLLM would compute the placeholders as if they were
        words, answer from them, and keep them in its prefix cache under the context's salt.
        """
        job = Job.of(request.kv_transfer_params)
        if job.load is not None:
            request.skip_reading_prefix_cache = False
        if job.capture is not None and job.capture.compression is not None:
            self._hide_scored(request, self._prompt(request, job.capture))

    def _hide_scored(self, request: Request, prompt: CapturedPrompt) -> None:
        """Have vLLM's prefix cache hold nothing from the first row that scores on.

        The description's blocks are there since it was generated. A block is found by its hash, which is made another
        one here. At least two tokens are left: a single one could be replayed as a decode step, which nobody sees.
        """
        first = min(prompt.scored.start, len(prompt.token_ids) - 2)
        blocks = max(0, first) // self._block_size
        hashes = request.block_hashes
        hashes[blocks:] = [BlockHash(os.urandom(len(each))) for each in hashes[blocks:]]

    def external_tokens(self, request: Request, computed: int) -> int:
        """Count the tokens after the `computed` ones that need not be computed."""
        load = Job.of(request.kv_transfer_params).load
        return max(0, load.tokens - computed) if load else 0

    def on_allocation(self, request: Request, blocks: KVCacheBlocks, external: int) -> None:
        """Note a request that is scheduled, maybe anew, with tokens to load."""
        job = Job.of(request.kv_transfer_params)
        block_ids = blocks.get_block_ids()[0]
        if job.load is not None:
            start = job.load.tokens - external
            held = start >= max(self._block_size, job.load.tokens // self._block_size * self._block_size)
            self._tiers.setdefault(request.request_id, "gpu" if held else None)
            if request.cache_salt is None:  # without it all contexts look alike to the prefix cache
                self._refused.update(block_ids)
            elif external:
                self._loads.append(LoadStep(job.load, start, tuple(block_ids)))
        if job.capture is not None:
            prompt = self._prompt(request, job.capture)
            self._captured[request.request_id] = _CaptureState(job.capture, prompt, list(block_ids))
            if job.load is None:
                request.skip_reading_prefix_cache = True  # after a preemption, which forgets what was captured

    def plan(self, scheduled: SchedulerOutput) -> StepPlan:
        """Plan the workers' part of the step that was just scheduled.

        Raises:
            Exception: any; then no load is forgotten, and `drop` refuses them.
        """
        captures = self._capture_steps(scheduled) if self._captured else []
        ended = (scheduled.finished_req_ids | self._failed) & self._captured.keys()
        for request_id in ended:
            del self._captured[request_id]
        self._failed = set()
        return self._take(captures, ended)

    def drop(self) -> StepPlan:
        """Refuse the planned loads, and forget the captures."""
        ended = set(self._captured)
        self._captured = {}
        plan = self._take([], ended)
        for load in plan.loads:
            plan.refused.update(load.block_ids)
        plan.loads = []
        return plan

    def _take(self, captures: list[CaptureStep], ended: set[str]) -> StepPlan:
        plan = StepPlan(loads=self._loads, refused=self._refused, captures=captures, ended=ended)
        self._loads, self._refused = [], set()
        return plan

    def on_finish(self, request: Request) -> dict[str, Any] | None:
        """Return the message to the server at a request's end.

        The tier is "gpu" if vLLM's own cache held every full block of the context.
        """
        tier = self._tiers.pop(request.request_id, None)
        return {"tier": tier} if tier else None

    def _capture_steps(self, scheduled: SchedulerOutput) -> list[CaptureStep]:
        computed = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        going_on = scheduled.scheduled_cached_reqs
        for request_id, count, new_blocks in zip(
            going_on.req_ids, going_on.num_computed_tokens, going_on.new_block_ids, strict=True
        ):
            computed[request_id] = count
            captured = self._captured.get(request_id)
            # A resumed request's blocks were told by `on_allocation` already.
            if captured is not None and new_blocks is not None and request_id not in going_on.resumed_req_ids:
                captured.block_ids.extend(new_blocks[0])
        steps = []
        for request_id in computed.keys() & self._captured.keys():
            try:
                steps.append(self._capture_step(request_id, computed[request_id], scheduled))
            except Exception as error:  # the others go on
                log_failure("planning a capture", error)
                self._failed.add(request_id)
        return steps

    def _capture_step(self, request_id: str, start: int, scheduled: SchedulerOutput) -> CaptureStep:
        captured = self._captured[request_id]
        block, offset = divmod(start, self._block_size)
        return CaptureStep(
            request_id=request_id,
            capture=captured.capture,
            prompt=captured.prompt,
            start=start,
            count=scheduled.num_scheduled_tokens[request_id],
            first_slot=captured.block_ids[block] * self._block_size + offset,
            block_ids=tuple(captured.block_ids),
        )

    def _prompt(self, request: Request, capture: Capture) -> CapturedPrompt:
        ids = tuple(request.prompt_token_ids or ())
        length = len(ids) - capture.num_description_tokens
        features = tuple(_without_pixels(feature) for feature in request.mm_features)
        grids = {name: feature.data[name].data for feature in features for name in _GRIDS if name in feature.data}
        image_ids = {getattr(self._config, f"{kind}_token_id", None) for kind in ("image", "video")} - {None}
        # Only in the prompt: a model may say its image token, which then is a word like any other.
        columns = tuple(i for i, token in enumerate(ids[:length]) if token in image_ids)
        frames = capture.compression.frames if capture.compression else None
        blocks = capture.compression.layout if capture.compression else None
        layout = fitting_layout(TileLayout.of(blocks) if blocks else None, len(columns), frames)
        grid = media_grid(self._config, len(columns), grids, frames, layout)
        return CapturedPrompt(ids, length, columns, grid, features, layout, _scored(capture, columns, length, len(ids)))


def _scored(capture: Capture, columns: tuple[int, ...], length: int, total: int) -> range:
    """Return the rows of a prompt that score its image tokens."""
    if capture.compression is None or not columns:
        return range(0)
    return query_rows(capture.compression.rows, query_start=columns[-1] + 1, prompt_length=length, total=total)


def _without_pixels(feature: Any) -> Any:
    kept = {name: feature.data[name] for name in _POSITION_FIELDS if feature.data and name in feature.data}
    return replace(feature, data=type(feature.data)(kept) if feature.data else {})
