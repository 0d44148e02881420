"""vLLM's own options: whatever its engine takes, checked by its own parser."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from lookonce_server.engines.vllm.parent import Binding
from lookonce_server.errors import ModelRefusedError

CONNECTOR = "ContextConnector"
CONNECTOR_MODULE = "lookonce_server.engines.vllm.connector"
WORKER_EXTENSION = "lookonce_server.engines.vllm.worker.WorkerExtension"

# Options that are decided here, and what to use in their place.
_OURS = {
    "model": "--model",
    "dtype": "--dtype",
    "served_model_name": "--served-name",
    "kv_transfer_config": "nothing: contexts travel through lookonce's own connector",
    "worker_extension_cls": "nothing: it is lookonce's own",
    "structured_outputs_config": "nothing: JSON is decoded as in every engine",
}
_CPU_CACHE_BYTES = 2 * 1024**3  # on a CPU vLLM would take most of the machine's memory, and fail where it is in use


def engine_args(given: Mapping[str, Any], *, model: str, dtype: str) -> Any:
    """vLLM's `AsyncEngineArgs`.

    Args:
        given: vLLM's options by name, as {"tensor_parallel_size": 2}; values as on its command line or in JSON.
        model: folder of the checkpoint.
        dtype: arithmetic of the model.

    Raises:
        ModelRefusedError: an option is unknown, has a wrong value, or is decided by lookonce; it is named.
    """
    from vllm.config import KVTransferConfig, StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    for name in given:
        if name in _OURS:
            raise ModelRefusedError(f"--vllm-{_flag(name)}: not for vLLM to decide. Use {_OURS[name]}.")

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
        "limit_mm_per_prompt": {"image": 1},
    }
    if current_platform.is_cpu():
        defaults["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    arguments = [_argument(name, value) for name, value in {**defaults, **given}.items()]
    args = AsyncEngineArgs.from_cli_args(parser.parse_args([*arguments, f"--model={model}", f"--dtype={dtype}"]))
    args.kv_transfer_config = KVTransferConfig(
        kv_connector=CONNECTOR,
        kv_connector_module_path=CONNECTOR_MODULE,
        kv_role="kv_both",
        kv_connector_extra_config={"parent": Binding()},
    )
    args.worker_extension_cls = WORKER_EXTENSION
    args.structured_outputs_config = StructuredOutputsConfig(
        backend="guidance", disable_any_whitespace=True, enable_in_reasoning=True
    )
    return args


def _argument(name: str, value: Any) -> str:
    """An option as an argument of vLLM's command line."""
    if value is True or value == "":
        return f"--{_flag(name)}"
    if value is False:
        return f"--no-{_flag(name)}"
    return f"--{_flag(name)}={value if isinstance(value, str) else json.dumps(value)}"


def _flag(name: str) -> str:
    return name.replace("_", "-")
