"""Check vLLM's own options with its own parser."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from lookonce_server.engines.checkpoint import indexed_weights, transformers_weights
from lookonce_server.engines.vllm.parent import Binding
from lookonce_server.errors import ModelRefusedError

CONNECTOR = "ContextConnector"
CONNECTOR_MODULE = "lookonce_server.engines.vllm.connector.connector"
WORKER_EXTENSION = "lookonce_server.engines.vllm.connector.worker.WorkerExtension"

# Options that are decided here, and what to use in their place.
_OURS = {
    "model": "--model",
    "dtype": "--dtype",
    "served_model_name": "--served-name",
    "trust_remote_code": "--trust-remote-code",
    "kv_transfer_config": "nothing: contexts travel through lookonce's own connector",
    "worker_extension_cls": "nothing: it is lookonce's own",
    "structured_outputs_config": "nothing: JSON is decoded as in every engine",
}
# Options that name something outside of the checkpoint's folder, which could change and nobody would see it.
_ELSEWHERE = (
    "tokenizer",
    "hf_config_path",
    "model_weights",
    "revision",
    "code_revision",
    "tokenizer_revision",
    "default_mm_loras",
    "mm_encoder_fp8_scale_path",
)
# Where the weights come from: safetensors of the checkpoint's folder, which are in its digest, or no file at all.
_LOAD_FORMATS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "mistral", "dummy")
# Options that do not change what is computed for a token, beyond the rounding of sums in another order. What is not
# among them counts: two servers that differ in it share no contexts.
_HARMLESS = frozenset(
    (
        # how the work is shared out
        *("tensor_parallel_size", "data_parallel_size", "data_parallel_size_local", "data_parallel_rank"),
        *("data_parallel_start_rank", "data_parallel_address", "data_parallel_rpc_port", "data_parallel_backend"),
        *("distributed_executor_backend", "nnodes", "node_rank", "master_addr", "master_port"),
        # how much of it at once, and what is remembered of it
        *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling"),
        *("scheduling_policy", "long_prefill_token_threshold", "limit_mm_per_prompt", "enable_prefix_caching"),
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size"),
        *("cpu_offload_gb", "mm_processor_cache_gb", "mm_processor_cache_type", "mm_shm_cache_max_object_size_mb"),
        # how it is started and watched
        *("enforce_eager", "disable_custom_all_reduce", "max_parallel_loading_workers", "use_tqdm_on_load"),
        *("disable_log_stats", "enable_log_requests", "show_hidden_metrics_for_version", "otlp_traces_endpoint"),
        *("max_logprobs", "hf_token", "download_dir"),
    )
)
_CPU_CACHE_BYTES = 2 * 1024**3  # on a CPU vLLM would take most of the machine's memory, and fail where it is in use


def engine_args(
    options: Mapping[str, Any], *, model: str, dtype: str, trust_remote_code: bool = False, max_images: int = 1
) -> Any:
    """Build vLLM's `AsyncEngineArgs`.

    Args:
        options: vLLM's options by name, as {"tensor_parallel_size": 2}; values as on its command line or in JSON.
        model: folder of the checkpoint.
        dtype: arithmetic of the model.
        trust_remote_code: whether code of the checkpoint may run.
        max_images: most images of a prompt.

    Raises:
        ModelRefusedError: an option is unknown, has a wrong value, is decided by lookonce, or takes a part of the model
            from elsewhere; it is named.
    """
    from vllm.config import KVTransferConfig, StructuredOutputsConfig

    for name in options:
        if name in _OURS:
            raise ModelRefusedError(f"--vllm-{_flag(name)}: not for vLLM to decide. Use {_OURS[name]}.")
    args = _parse({"limit_mm_per_prompt": {"image": max_images}, **options}, model, dtype)
    for name in _diff(args, _parse({}, model, dtype)):
        if name in _ELSEWHERE:
            raise ModelRefusedError(
                f"--vllm-{_flag(name)}: it takes a part of the model from outside of its folder, which may change"
                " behind it. Accepted: a checkpoint folder that has everything, as --model."
            )
    local = args.data_parallel_size if args.data_parallel_size_local is None else args.data_parallel_size_local
    for name, is_local in (
        ("nnodes", args.nnodes == 1),
        ("data_parallel_size_local", local == args.data_parallel_size),
    ):
        if not is_local:
            raise ModelRefusedError(
                f"--vllm-{_flag(name)}={getattr(args, name)}: contexts are handed to vLLM's workers in files, so all of"
                " them must be on this machine. Accepted: a server on each machine, over one Redis."
            )
    if args.load_format not in _LOAD_FORMATS:
        raise ModelRefusedError(
            f"--vllm-load-format={args.load_format}: it reads weights that are no safetensors of the checkpoint's"
            f" folder. Accepted: {', '.join(_LOAD_FORMATS)}."
        )
    args.trust_remote_code = trust_remote_code
    args.kv_transfer_config = KVTransferConfig(
        kv_connector=CONNECTOR,
        kv_connector_module_path=CONNECTOR_MODULE,
        kv_role="kv_both",
        kv_connector_extra_config={"parent": Binding()},
    )
    if args.disable_hybrid_kv_cache_manager is None:
        args.disable_hybrid_kv_cache_manager = True  # as vLLM would beside this connector, with a warning
    args.worker_extension_cls = WORKER_EXTENSION
    args.structured_outputs_config = StructuredOutputsConfig(
        backend="guidance", disable_any_whitespace=True, enable_in_reasoning=True
    )
    return args


def computing_options(options: Mapping[str, Any], *, model: str, dtype: str) -> dict[str, str]:
    """Return the options that may change the computed values, by name.

    They differ from their defaults, and are not known to be harmless.

    The arguments are those of `engine_args`; neither the most images of a prompt nor trust in the
    checkpoint's code, which is in its digest then, change anything. However a value is written, as
    a flag or in JSON, its text is the same.
    """
    changed = _diff(_parse(options, model, dtype), _parse({}, model, dtype))
    return {name: text for name, text in changed.items() if name not in _HARMLESS}


def read_weights(folder: Path, load_format: str) -> set[str]:
    """Return the names of the files of weights that vLLM reads.

    An index is among them.

    Args:
        folder: of the checkpoint.
        load_format: vLLM's option.

    Raises:
        ModelRefusedError: an index names files that lie elsewhere.
    """
    if load_format == "dummy":
        return transformers_weights(folder)
    if load_format == "auto":
        load_format = "mistral" if any(folder.rglob("consolidated*.safetensors")) else "hf"
    prefix, name = ("consolidated*", "consolidated") if load_format == "mistral" else ("*", "model")
    index = f"{name}.safetensors.index.json"
    if (folder / index).is_file():
        return {index, *indexed_weights(folder, index)}
    return {path.name for path in folder.glob(f"{prefix}.safetensors")}


def _diff(args: Any, plain: Any) -> dict[str, str]:
    """Return the fields in which `args` differs from `plain`, and their values."""
    names = (field.name for field in fields(args))
    return {name: _text(getattr(args, name)) for name in names if getattr(args, name) != getattr(plain, name)}


def _text(value: Any) -> str:
    """Return a value's text; the order of names in it does not matter."""
    return json.dumps(value, sort_keys=True, default=lambda item: sorted(item) if isinstance(item, set) else repr(item))


def _parse(options: Mapping[str, Any], model: str, dtype: str) -> Any:
    """Parse vLLM's `AsyncEngineArgs`, with lookonce's defaults."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ModelRefusedError(f"vLLM does not take these options: {message.replace('--', '--vllm-')}")

    parser = AsyncEngineArgs.add_cli_args(
        Parser(  # type: ignore[no-untyped-call]
            prog="lookonce serve", allow_abbrev=False
        )
    )
    defaults: dict[str, Any] = {
        "scheduling_policy": "priority",  # describe passes come behind what someone waits for
    }
    folder = Path(model)
    if (folder / "model.safetensors.index.json").is_file() and not (folder / "params.json").exists():
        defaults["load_format"] = "safetensors"  # "auto" takes Mistral's copy of the weights where there is one
    if current_platform.is_cpu():
        defaults["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    arguments = [_argument(name, value) for name, value in {**defaults, **options}.items()]
    return AsyncEngineArgs.from_cli_args(parser.parse_args([*arguments, f"--model={model}", f"--dtype={dtype}"]))


def _argument(name: str, value: Any) -> str:
    """Write an option as an argument of vLLM's command line."""
    if value is True or value == "":
        return f"--{_flag(name)}"
    if value is False:
        return f"--no-{_flag(name)}"
    return f"--{_flag(name)}={value if isinstance(value, str) else json.dumps(value)}"


def _flag(name: str) -> str:
    return name.replace("_", "-")
