"""Load a checkpoint."""

from itertools import chain
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
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
    """Load an image-text-to-text checkpoint of transformers, from safetensors.

    Raises:
        ModelRefusedError: it cannot be found, is no such checkpoint, or is changed meanwhile; the device is not there.
    """
    check_device(device)
    folder = find_checkpoint(name)
    digest = file_digest(folder)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelRefusedError(f"model {name!r} cannot be loaded: {error}") from error
    if not getattr(processor, "chat_template", None):
        raise ModelRefusedError(f"model {name!r} has no chat template, so that no conversation can be rendered.")
    model.to(torch.device(device)).eval()  # type: ignore[arg-type]
    _own_memory(model)
    check_unchanged(folder, digest)
    return LoadedModel(model, processor, fingerprint(digest, dtype, processor), digest)


def check_device(name: str) -> None:
    """Raise ModelRefusedError unless this torch can use a device.

    Raises:
        ModelRefusedError: it has not, or cannot; the message says which there are.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["auto", "cpu", *(f"cuda:{index}" for index in range(cuda))]
    if torch.backends.mps.is_available():
        there.append("mps")
    try:
        device = torch.device(name)
    except RuntimeError:  # torch's words are a list of all that it has ever heard of
        device = None
    if device is not None and (device.type == "cpu" or f"{device.type}:{device.index or 0}" in there or name in there):
        return
    missing = ""
    if name.startswith("cuda") and not cuda:
        built = "sees no GPU" if torch.version.cuda or torch.version.hip else "was built without CUDA"
        missing = f"; this torch {torch.__version__} {built}"
    raise ModelRefusedError(f"--device {name}: there is no such device here{missing}. Accepted: {', '.join(there)}.")


@torch.no_grad()
def _own_memory(model: PreTrainedModel) -> None:
    """Copy the weights out of the file's mapping.

    Whoever overwrote the file would else change the running model.

    One tensor at a time, so that never more than one is there twice beside the file's pages, which the kernel may drop.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu":  # on any other device they were copied to
            tensor.data = tensor.data.clone()
