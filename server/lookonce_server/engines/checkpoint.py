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


def file_digest(folder: Path) -> str:
    """BLAKE2b-256 over every file that shapes what a model computes, whole: which checkpoint it is, however it is run.

    The same bytes in another folder give the same digest; a changed weight, template or image size gives another one.
    """
    total = hashlib.blake2b(digest_size=32, person=b"lookonce-files")
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


def fingerprint(checkpoint: str, dtype: torch.dtype) -> str:
    """BLAKE2b-256 over a checkpoint's `file_digest` and the arithmetic it is run in: replicas of one share contexts.

    That is the dtype, and transformers' minor version: it decides how pictures are resized.
    """
    version = ".".join(transformers.__version__.split(".")[:2])
    text = f"{dtype} transformers {version}\n{checkpoint}\n"
    return hashlib.blake2b(text.encode(), digest_size=32, person=b"lookonce-model").hexdigest()
