"""Check what lookonce relies on in vLLM, and vLLM does not promise.

Each part is checked by its name, at every start and in a test of its own: a release that breaks one is refused with a
sentence that names it.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import vllm

from lookonce_server.engines.vllm.connector.connector import ContextConnector
from lookonce_server.errors import ModelRefusedError

_TOO_LONG = re.compile(r"maximum\s+(model|context)\s+length")
_LENGTH = re.compile(r"prompt \(length (\d+)\)|contains (?:at least )?(\d+) input tokens")


@dataclass(frozen=True, slots=True)
class Part:
    """A class or function of vLLM, and what is used of it.

    Attributes:
        module: that has it, below `vllm`.
        name: of it, with the class of a method.
        attributes: of its instances, or its own.
        parameters: that it is called with.
    """

    module: str
    name: str
    attributes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    def problem(self) -> str | None:
        """Return what is missing, None if all is there."""
        try:
            found = self.find()
        except (ImportError, AttributeError) as error:
            return f"{self}: {error}"
        missing = [name for name in self.attributes if not _has(found, name)]
        takes = inspect.signature(found).parameters if self.parameters else {}
        missing += [name for name in self.parameters if name not in takes]
        return f"{self} has no {', '.join(missing)}" if missing else None

    def find(self) -> Any:
        """Return the class or function.

        Raises:
            ImportError, AttributeError: it is not there.
        """
        found: Any = import_module(f"vllm.{self.module}")
        for name in self.name.split("."):
            found = getattr(found, name)
        return found

    def __str__(self) -> str:
        return f"vllm.{self.module}.{self.name}"


_CONNECTOR = Part("distributed.kv_transfer.kv_connector.v1.base", "KVConnectorBase_V1")

PARTS = (
    # How requests are sent, and what comes back.
    Part("v1.engine.async_llm", "AsyncLLM", attributes=("vllm_config", "model_config", "renderer", "output_handler")),
    Part(
        "v1.engine.async_llm",
        "AsyncLLM.generate",
        parameters=("prompt", "sampling_params", "request_id", "priority", "trace_headers"),
    ),
    Part("v1.engine.async_llm", "AsyncLLM.collective_rpc", parameters=("method",)),
    Part("v1.engine.async_llm", "AsyncLLM.shutdown", parameters=("timeout",)),
    Part("v1.engine.async_llm", "AsyncLLM.check_health"),
    Part("v1.engine.async_llm", "AsyncLLM.from_engine_args", parameters=("engine_args",)),
    Part("renderers.base", "BaseRenderer.render_cmpl_async", parameters=("prompts",)),
    Part("v1.engine.exceptions", "EngineDeadError"),
    Part("v1.engine.exceptions", "EngineGenerateError"),
    Part("exceptions", "VLLMClientError"),
    Part(
        "sampling_params",
        "SamplingParams",
        attributes=("skip_reading_prefix_cache", "extra_args", "output_kind", "structured_outputs", "prompt_logprobs"),
    ),
    Part(
        "outputs",
        "RequestOutput",
        attributes=("prompt_token_ids", "num_cached_tokens", "kv_transfer_params", "metrics", "outputs", "finished"),
    ),
    Part("v1.metrics.stats", "RequestStateStats", attributes=("queued_ts", "scheduled_ts", "first_token_ts")),
    # What the scheduler tells the connector.
    Part(
        "v1.request",
        "Request",
        attributes=(
            *("request_id", "prompt_token_ids", "num_tokens", "mm_features", "kv_transfer_params"),
            *("cache_salt", "skip_reading_prefix_cache", "block_hashes"),
        ),
    ),
    Part("v1.core.kv_cache_utils", "BlockHash"),
    Part("v1.core.kv_cache_manager", "KVCacheBlocks.get_block_ids"),
    Part(
        "v1.core.sched.output",
        "SchedulerOutput",
        attributes=("scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens", "finished_req_ids"),
    ),
    Part("v1.core.sched.output", "NewRequestData", attributes=("req_id", "num_computed_tokens")),
    Part(
        "v1.core.sched.output",
        "CachedRequestData",
        attributes=("req_ids", "num_computed_tokens", "new_block_ids", "resumed_req_ids"),
    ),
    Part("multimodal.inputs", "MultiModalFeatureSpec", attributes=("data",)),
    # What the workers see.
    Part("v1.kv_cache_interface", "KVCacheConfig", attributes=("num_blocks", "kv_cache_groups")),
    Part("v1.kv_cache_interface", "FullAttentionSpec", attributes=("block_size",)),
    Part("forward_context", "ForwardContext", attributes=("slot_mapping",)),
    Part("forward_context", "get_forward_context"),
    Part("config", "CompilationConfig", attributes=("static_forward_context",)),
    Part("model_executor.models.utils", "extract_layer_index", parameters=("layer_name",)),
    Part("distributed", "get_tp_group"),
    Part("distributed.parallel_state", "GroupCoordinator", attributes=("cpu_group",)),
    Part("distributed.kv_transfer", "get_kv_transfer_group"),
    Part("v1.attention.backend", "AttentionImpl.forward", parameters=("layer", "query", "key", "value")),
    # How it is started.
    Part(
        "config",
        "KVTransferConfig",
        parameters=("kv_connector", "kv_connector_module_path", "kv_role", "kv_connector_extra_config"),
    ),
    Part("config", "StructuredOutputsConfig", parameters=("backend", "disable_any_whitespace", "enable_in_reasoning")),
    Part(
        "engine.arg_utils",
        "AsyncEngineArgs",
        parameters=("kv_transfer_config", "worker_extension_cls", "structured_outputs_config", "limit_mm_per_prompt"),
    ),
    Part("tool_parsers", "ToolParserManager", attributes=("list_registered", "get_tool_parser")),
    Part("tool_parsers", "ToolParser", attributes=("extract_tool_calls_streaming", "prev_tool_call_arr")),
    # Its logger would print the answer of a grammar that fails.
    Part("v1.structured_output.backend_guidance", "logger"),
)


# Without one of these vLLM would not call us where it must.
_CALLED = (
    *("on_new_request", "get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta"),
    *("request_finished", "register_kv_caches", "bind_connector_metadata", "start_load_kv", "wait_for_layer_load"),
    *("save_kv_layer", "wait_for_save", "get_block_ids_with_load_errors"),
)


def connector_problem() -> str | None:
    """Return what vLLM's connectors have other parameters for than ours, None if all are the same."""
    try:
        base = vars(_CONNECTOR.find())
    except (ImportError, AttributeError) as error:
        return f"{_CONNECTOR}: {error}"
    for name, method in vars(ContextConnector).items():
        if name in base and inspect.isfunction(base[name]) and not name.startswith("_"):
            theirs, ours = (list(inspect.signature(each).parameters) for each in (base[name], method))
            if theirs != ours:
                return f"{_CONNECTOR}.{name} takes {', '.join(theirs)}"
    missing = sorted(name for name in _CALLED if name not in base)
    return f"{_CONNECTOR} has no {', '.join(missing)}" if missing else None


def is_too_long(message: str) -> bool:
    """Tell whether vLLM refuses a prompt for its length, from what it says."""
    return _TOO_LONG.search(message) is not None


def prompt_length(message: str) -> str | None:
    """Return the length of the prompt that vLLM refuses, from what it says; None if it tells none."""
    match = _LENGTH.search(message)
    return next(filter(None, match.groups())) if match else None


def length_problem() -> str | None:
    """Return why a prompt's length cannot be read from vLLM's refusal, None if it can."""
    tokens = Part("renderers.params", "TokenizeParams")
    try:
        tokens.find()(max_total_tokens=2, add_special_tokens=False).apply_post_tokenization(
            None, {"prompt_token_ids": [1, 2, 3, 4]}
        )
    except Exception as error:
        if is_too_long(str(error)) and prompt_length(str(error)) == "4":
            return None
        return f"{tokens} refuses a long prompt by {error!r}"
    return f"{tokens} takes a long prompt"


def check_contract(parts: Sequence[Part] = PARTS) -> None:
    """Check the vLLM that is installed.

    Args:
        parts: of vLLM, that are used.

    Raises:
        ModelRefusedError: something is missing, or other than it was.
    """
    found = [part.problem() for part in parts] + [connector_problem(), length_problem()]
    if problems := [problem for problem in found if problem]:
        raise ModelRefusedError(
            f"This vLLM, {vllm.__version__}, is not one that lookonce works with: {'; '.join(problems)}. See"
            " docs/vllm.md for the one that does."
        )


def _has(found: Any, name: str) -> bool:
    """Tell whether an object has an attribute, or a class's instances."""
    if hasattr(found, name):
        return True
    if not isinstance(found, type):
        return False
    of_class = any(name in vars(base).get("__annotations__", {}) for base in found.__mro__)
    code = getattr(found.__init__, "__code__", None)  # type: ignore[misc]
    return of_class or (code is not None and name in code.co_names)
