"""Connect vLLM and contexts: see `scheduler`, `loader` and `recorder`."""

import contextlib
import logging
from functools import partial
from typing import Any

import torch
import torch.distributed
from vllm.config import VllmConfig
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    get_tp_group,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole
from vllm.forward_context import ForwardContext
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request

from lookonce_server.engines.vllm.connector.cache_reader import CacheReader
from lookonce_server.engines.vllm.connector.files import write_failure, write_result
from lookonce_server.engines.vllm.connector.guard import guarded, log_failure, reason
from lookonce_server.engines.vllm.connector.loader import ContextLoader
from lookonce_server.engines.vllm.connector.messages import CaptureStep, Job, StepPlan
from lookonce_server.engines.vllm.connector.recorder import KVRecorder
from lookonce_server.engines.vllm.connector.scheduler import ConnectorScheduler
from lookonce_server.engines.vllm.connector.step_times import StepClock, StepTimes
from lookonce_server.engines.vllm.positions import check_positions
from lookonce_server.engines.vllm.support import attention_problems

_BEFORE = RuntimeError("This request has failed before.")


class ContextConnector(KVConnectorBase_V1):
    """Load contexts into vLLM's KV cache, and capture describe passes.

    vLLM makes one in each of its processes.

    Every method that vLLM calls is guarded, see `guard`. What a request whose context cannot be loaded must not do is
    go on: vLLM would compute its placeholders as if they were words, or read blocks that nobody wrote. vLLM ends a
    request with an error when one of the blocks that it took for computed elsewhere is reported as lost. So such a
    request is told to have at least one token elsewhere, and all of its blocks are reported.
    """

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._config = vllm_config
        self._block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        if role is KVConnectorRole.SCHEDULER:
            # vLLM would log the schema and the answer of a grammar that fails, in this process.
            logging.getLogger("vllm.v1.structured_output.backend_guidance").setLevel(logging.ERROR)
            self._scheduler = ConnectorScheduler(vllm_config.model_config.hf_config, self._block_size)
        self._failed: set[str] = set()  # requests that must end with an error
        self._refused: set[int] = set()  # their blocks, until the workers are told
        self._loader: ContextLoader | None = None
        self._recorder: KVRecorder | None = None
        self._cache_names: tuple[str, ...] = ()
        self._lost: set[int] = set()  # blocks that a load should have written
        self._clock = StepClock()

    # In the scheduler.

    def _fail(self, error: Exception, request: Request) -> None:
        if Job.is_in(request.kv_transfer_params):
            self._failed.add(request.request_id)
            request.skip_reading_prefix_cache = False  # or vLLM would not ask how many tokens are elsewhere

    @guarded(_fail)
    def on_new_request(self, request: Request) -> None:
        """See vLLM; the request has come in."""
        self._scheduler.on_arrival(request)

    def _fail_matched(self, error: Exception, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        if not Job.is_in(request.kv_transfer_params):
            return 0, False
        self._failed.add(request.request_id)
        return min(1, max(0, request.num_tokens - 1 - num_computed_tokens)), False

    @guarded(_fail_matched)
    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        """See vLLM; return the tokens that will be loaded within the step."""
        if request.request_id in self._failed:
            return self._fail_matched(_BEFORE, request, num_computed_tokens)
        return self._scheduler.external_tokens(request, num_computed_tokens), False

    def _refuse(self, error: Exception, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        if Job.is_in(request.kv_transfer_params):
            self._refused.update(blocks.get_block_ids()[0])

    @guarded(_refuse)
    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        """See vLLM; the request is scheduled, and has blocks."""
        if request.request_id in self._failed:
            self._refuse(_BEFORE, request, blocks, num_external_tokens)
        else:
            self._scheduler.on_allocation(request, blocks, num_external_tokens)

    def _refuse_step(self, error: Exception, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return self._with_refused(self._scheduler.drop())

    @guarded(_refuse_step)
    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """See vLLM; return the workers' part of this step."""
        return self._with_refused(self._scheduler.plan(scheduler_output))

    def _tell_nothing(
        self, error: Exception, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        return False, None

    @guarded(_tell_nothing)
    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """See vLLM; blocks may be freed at once."""
        self._failed.discard(request.request_id)
        return False, self._scheduler.on_finish(request)

    def _with_refused(self, plan: StepPlan) -> StepPlan:
        plan.refused |= self._refused
        self._refused = set()
        return plan

    # In each worker.

    def attach(self, model: Any) -> None:
        """Take the model, once its cache is there; see `WorkerExtension`.

        Raises:
            PruningError: contexts cannot be used with it.
        """
        layers = self._layers()
        check_positions(
            model,
            layers,
            config=self._config.model_config.hf_config,
            last=self._config.model_config.max_model_len - 1,
            uses_mrope=self._config.model_config.uses_mrope,
        )
        ranks = get_tensor_model_parallel_world_size()
        dtype = self._config.model_config.dtype
        assert isinstance(dtype, torch.dtype)
        self._loader = ContextLoader(
            layers,
            heads=self._config.model_config.get_total_num_kv_heads(),
            rank=get_tensor_model_parallel_rank(),
            ranks=ranks,
            block_size=self._block_size,
        )
        self._recorder = KVRecorder(
            layers,
            reader=CacheReader.of(
                layers,
                dtype=dtype,
                num_blocks=self._kv_cache_config.num_blocks,
                block_size=self._block_size,
            ),
            model=model,
            config=self._config.model_config.hf_config,
            uses_mrope=self._config.model_config.uses_mrope,
            all_reduce=partial(torch.distributed.all_reduce, group=get_tp_group().cpu_group),
            ranks=ranks,
        )

    @property
    def reads_cache(self) -> bool:
        """Whether captures read keys and values from vLLM's cache."""
        return self._recorder is not None and self._recorder.reader is not None

    def problems(self) -> list[str]:
        """List the reasons against contexts with this model, as sentences."""
        return attention_problems(self._config, self._kv_cache_config, self._layers())

    def take_step_times(self) -> list[StepTimes]:
        """Return what the last steps spent on contexts, and forget it."""
        return self._clock.take()

    def _keep_going(self, error: Exception, *args: Any, **kwargs: Any) -> None:
        """Do without: the missing part is noticed later."""

    @guarded(_keep_going)
    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """See vLLM; the cache was allocated, and the layers' names are its keys."""
        self._cache_names = tuple(kv_caches)

    def _capture_nothing(self, error: Exception, connector_metadata: KVConnectorMetadata) -> None:
        if self._recorder is not None:
            self._recorder.fail(self._plan().captures, reason(error))

    @guarded(_capture_nothing)
    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """See vLLM; this comes before the forward pass in any case.

        `start_load_kv` may come after it if nothing is loaded.
        """
        super().bind_connector_metadata(connector_metadata)
        self._clock.start_step()
        if self._recorder is not None:
            self._recorder.forget(self._plan().ended)
            self._recorder.begin(self._plan().captures)

    def _lose_step(self, error: Exception, forward_context: ForwardContext, **kwargs: Any) -> None:
        self._lost |= self._plan().refused
        for step in self._plan().loads:
            self._lost.update(step.block_ids)

    @guarded(_lose_step)
    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        """See vLLM; this comes before the forward pass if something is loaded."""
        self._lost |= self._plan().refused
        for step in self._plan().loads:
            assert self._loader is not None
            try:
                with self._clock.timing("load"):
                    self._loader.load(step)
            except Exception as error:
                log_failure("loading a context", error)
                self._lost.update(step.block_ids)

    @guarded(_keep_going)
    def wait_for_layer_load(self, layer_name: str) -> None:
        """See vLLM; loads are over before the forward pass begins."""

    @guarded(_keep_going)
    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """See vLLM; nothing is saved from the paged cache."""

    def _refuse_captures(self, error: Exception) -> None:
        if self._recorder is not None:
            self._recorder.fail(self._plan().captures, reason(error))
            self._end_captures(self._recorder)

    @guarded(_refuse_captures)
    def wait_for_save(self) -> None:
        """See vLLM; the forward pass is over."""
        if self._recorder is not None:
            self._end_captures(self._recorder)
        self._clock.end_step()

    def _report_lost(self, error: Exception) -> set[int]:
        return self._lost

    @guarded(_report_lost)
    def get_block_ids_with_load_errors(self) -> set[int]:
        """See vLLM; requests with these blocks are ended with an error."""
        lost, self._lost = self._lost, set()
        return lost

    def _end_captures(self, recorder: KVRecorder) -> None:
        """Write what is complete; ranks wait for each other at each."""
        for step in recorder.end(self._plan().captures):
            self._write(recorder, step)

    def _write(self, recorder: KVRecorder, step: CaptureStep) -> None:
        rank = get_tensor_model_parallel_rank()
        try:
            with self._clock.timing("compress"):
                tensors = recorder.result(step)
            with self._clock.timing("write"):
                write_result(step.capture.path, rank, tensors)
        except Exception as error:
            log_failure("capturing a describe pass", error)
            with contextlib.suppress(OSError):  # the folder is full or gone: the server finds no result, and says so
                write_failure(step.capture.path, rank, reason(error))

    def _layers(self) -> list[Any]:
        context = self._config.compilation_config.static_forward_context
        return [context[name] for name in sorted(self._cache_names, key=extract_layer_index)]

    def _plan(self) -> StepPlan:
        plan = self._get_connector_metadata()
        assert isinstance(plan, StepPlan)
        return plan
