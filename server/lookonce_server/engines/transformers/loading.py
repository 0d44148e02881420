"""Loading a checkpoint."""

from typing import Any, NamedTuple

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from lookonce_server.engines.checkpoint import file_digest, find_checkpoint, fingerprint
from lookonce_server.errors import ModelRefusedError


class LoadedModel(NamedTuple):
    """A model ready to run."""

    model: PreTrainedModel
    processor: Any  # transformers' processors share no base class that types know
    fingerprint: str  # of its files and the arithmetic
    checkpoint: str  # digest of its files


def load_model(name: str, *, dtype: torch.dtype, device: str) -> LoadedModel:
    """Load any image-text-to-text checkpoint of transformers, from safetensors only.

    Raises:
        ModelRefusedError: it cannot be found, or is no such checkpoint.
    """
    folder = find_checkpoint(name)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelRefusedError(f"model {name!r} cannot be loaded: {error}") from error
    if not getattr(processor, "chat_template", None):
        raise ModelRefusedError(f"model {name!r} has no chat template, so that no conversation can be rendered.")
    model.to(torch.device(device)).eval()  # type: ignore[arg-type]
    digest = file_digest(folder)
    return LoadedModel(model, processor, fingerprint(digest, dtype), digest)
