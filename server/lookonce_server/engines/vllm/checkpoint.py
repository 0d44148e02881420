"""Read a checkpoint that vLLM is to run: its files, its configuration and processor, and vLLM's options with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from lookonce_cache import digest
from lookonce_pruning import UnsupportedModelError, check_architecture, trained_length
from lookonce_server.engines.checkpoint import check_code, file_digest, find_checkpoint
from lookonce_server.engines.families import model_label, vllm_problem
from lookonce_server.engines.pretrained import load_config, load_processor
from lookonce_server.engines.vllm.options import computing_options, engine_args, read_weights
from lookonce_server.errors import ModelRefusedError


class VllmCheckpoint(NamedTuple):
    """A checkpoint that vLLM can run, and the options to run it with."""

    folder: Path
    label: str  # in messages
    config: Any  # of transformers, as the processor
    processor: Any
    args: AsyncEngineArgs
    options: dict[str, str]  # that may change what is computed; see `computing_options`
    files: dict[str, Any]  # that vLLM reads; see `file_digest`
    digest: str  # of them, from before vLLM loads them


def read_checkpoint(
    name: str, dtype: torch.dtype, options: Mapping[str, Any], max_images: int, trust_remote_code: bool
) -> VllmCheckpoint:
    """Find a checkpoint, check vLLM's options with it, and load what is quickly loaded.

    Raises:
        ModelRefusedError: it cannot be run, or an option is wrong.
    """
    folder = find_checkpoint(name)
    where = {"model": str(folder), "dtype": str(dtype).removeprefix("torch.")}
    args = engine_args(options, max_images=max_images, trust_remote_code=trust_remote_code, **where)
    if args.load_format != "dummy" and not any(folder.glob("*.safetensors")):
        raise ModelRefusedError(f"vLLM cannot run model {name!r}: {folder} has no *.safetensors, which alone is read.")
    if trust_remote_code:
        check_code(folder)
    files: dict[str, Any] = {"weights": read_weights(folder, args.load_format), "everything": trust_remote_code}
    digest, label = file_digest(folder, **files), model_label(folder, name)
    config = load_config(folder, label, trust_remote_code=trust_remote_code)
    _check_config(config.get_text_config(), args)
    processor = load_processor(folder, label, trust_remote_code=trust_remote_code)
    return VllmCheckpoint(folder, label, config, processor, args, computing_options(options, **where), files, digest)


def _check_config(config: Any, args: AsyncEngineArgs) -> None:
    """Refuse what no context can be made of, before vLLM reads the weights, and bound the length.

    Args:
        config: of the text model.
        args: of the engine, whose length is bounded.

    Raises:
        ModelRefusedError: the model cannot be served, or not at the length that was chosen.
    """
    try:
        check_architecture(config)
    except UnsupportedModelError as error:
        raise ModelRefusedError(f"This model cannot be served by image re-prompting: {error}") from error
    if problem := vllm_problem(config, has_windows=not args.disable_sliding_window):
        raise ModelRefusedError(
            f"This model cannot be served by the vLLM engine: {problem}. `--engine transformers` serves such models."
        )
    limit = trained_length(config)
    if limit is None:
        return
    if args.max_model_len is not None and args.max_model_len > limit:
        raise ModelRefusedError(
            f"--vllm-max-model-len={args.max_model_len}: beyond {limit} tokens this model's RoPE (type 'dynamic') has"
            f" other frequencies, and keys cannot be moved. Accepted: up to {limit}."
        )
    if args.max_model_len in (None, -1):
        args.max_model_len = limit


def engine_fingerprint(plain: str, options: Mapping[str, str], config: VllmConfig) -> str:
    """Return the fingerprint of every engine, `plain`, unless vLLM computes otherwise.

    Options count by themselves, so that none is forgotten.
    """
    chosen = {  # by options, or by the checkpoint
        "quantization": config.model_config.quantization,
        "kv_cache_dtype": config.cache_config.cache_dtype.replace("auto", ""),
    }
    changed = dict(options) | {name: str(value) for name, value in chosen.items() if value}
    return digest(f"{plain} {sorted(changed.items())}".encode()) if changed else plain


def processor_options(config: VllmConfig) -> Any:
    """Return the options of the processor that vLLM adds to its configuration."""
    return getattr(config.model_config.multimodal_config, "mm_processor_kwargs", None)


def generation_config(folder: Path) -> GenerationConfig | None:
    """Return the checkpoint's generation configuration, if it has one."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None
