"""Load a checkpoint."""

from itertools import chain
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from lookonce_server.engines.checkpoint import (
    check_code,
    check_unchanged,
    file_digest,
    find_checkpoint,
    fingerprint,
)
from lookonce_server.engines.families import model_label
from lookonce_server.engines.pretrained import load_config, load_processor, load_weights
from lookonce_server.errors import ModelRefusedError


class LoadedModel(NamedTuple):
    """A model ready to run."""

    model: PreTrainedModel
    processor: Any  # transformers' processors share no base class that types know
    fingerprint: str  # of its files and the arithmetic
    checkpoint: str  # digest of its files


def load_model(name: str, *, dtype: torch.dtype, device: str, trust_remote_code: bool = False) -> LoadedModel:
    """Load an image-text-to-text checkpoint of transformers, from safetensors.

    Args:
        name: folder or hub name.
        dtype: arithmetic of the model.
        device: where it runs.
        trust_remote_code: whether code of the checkpoint may run. All of its files count in its digest then.

    Raises:
        ModelRefusedError: it cannot be found, is no such checkpoint, or is changed meanwhile; the device is not there.
    """
    check_device(device)
    folder = find_checkpoint(name)
    if trust_remote_code:
        check_code(folder)
    label = model_label(folder, name)
    digest = file_digest(folder, everything=trust_remote_code)
    config = load_config(folder, label, trust_remote_code=trust_remote_code)
    processor = load_processor(folder, label, trust_remote_code=trust_remote_code)  # first: weights take minutes
    model = load_weights(
        folder,
        label,
        trust_remote_code=trust_remote_code,
        config=config,
        dtype=dtype,
        attn_implementation="sdpa",
        use_safetensors=True,
    )
    model.to(torch.device(device)).eval()  # type: ignore[arg-type]
    _own_memory(model)
    check_unchanged(folder, digest, everything=trust_remote_code)
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
