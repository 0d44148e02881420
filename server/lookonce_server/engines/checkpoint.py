"""Finding a checkpoint, and naming exactly what it is."""

import hashlib
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lookonce_server.errors import ModelRefusedError

_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: `name` itself where it is one, else downloaded from the hub (or its local cache).

    Raises:
        ModelRefusedError: neither a folder nor a checkpoint of the hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelRefusedError(
            f"model {name!r}: no folder of that name, and not to be had from the hub ({type(error).__name__})."
            " Accepted: the path of a checkpoint folder, or a hub name such as 'llava-hf/llava-1.5-7b-hf'."
        ) from error


def fingerprint(folder: Path, dtype: torch.dtype) -> str:
    """BLAKE2b-256 over every file that shapes the model's arithmetic, whole, and over the dtype it runs in.

    The same bytes in another folder give the same fingerprint, so replicas share contexts; a changed weight, template
    or image size gives another one. transformers' minor version counts too: it decides how pictures are resized.
    """
    total = hashlib.blake2b(digest_size=32, person=b"lookonce-model")
    version = ".".join(transformers.__version__.split(".")[:2])
    total.update(f"{dtype} transformers {version}\n".encode())
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()
