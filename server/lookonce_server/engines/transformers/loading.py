"""Loading a checkpoint."""

from itertools import chain
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from lookonce_server.engines.checkpoint import check_unchanged, file_digest, find_checkpoint, fingerprint
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
        ModelRefusedError: it cannot be found, is no such checkpoint, or is changed meanwhile.
    """
    folder = find_checkpoint(name)
    digest = file_digest(folder)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelRefusedError(f"model {name!r} cannot be loaded: {error}") from error
    if not getattr(processor, "chat_template", None):
        raise ModelRefusedError(f"model {name!r} has no chat template, so that no conversation can be rendered.")
    model.to(torch.device(device)).eval()  # type: ignore[arg-type]
    _own_memory(model)
    check_unchanged(folder, digest)
    return LoadedModel(model, processor, fingerprint(digest, dtype, processor), digest)


@torch.no_grad()
def _own_memory(model: PreTrainedModel) -> None:
    """Copy the weights out of the file's mapping: whoever overwrote the file would change the running model.

    One tensor at a time, so that never more than one is there twice beside the file's pages, which the kernel may drop.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu":  # on any other device they were copied to
            tensor.data = tensor.data.clone()
