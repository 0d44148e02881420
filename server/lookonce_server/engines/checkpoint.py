"""Finding a checkpoint, and naming exactly what it is."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lookonce_server.errors import ModelRefusedError

# What neither engine takes anything from. All else counts, whatever it is called, since a loader may open it: a file of
# a kind that nobody thought of is one too many in a digest, and never one too few. Names are relative to the folder, in
# lower case; a star stands for slashes too.
_TEXTS = ("license", "licence", "notice", "readme")
_IGNORED = (
    *(".*", "*/.*"),  # hidden: version control, and the hub's own notes on a download
    *(start + name + end for name in _TEXTS for start in ("", "*/") for end in ("", ".txt")),
    *("*.md", "*.rst", "*.pdf", "*.html", "*.ipynb", "*.log"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.mp4", "*.zip", "*.gz", "*.tar", "*.parquet"),
    # Weights in other forms than safetensors, which alone are read: pickles could run what they like.
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.tflite", "*.nemo"),
    *("*.onnx", "*.onnx_data", "*.ot", "*.npz", "*.mlmodel", "*.mlpackage/*", "*.engine"),
)


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: `name` itself where it is one, else downloaded from the hub (or its local cache).

    Links on the way to it are followed once, here: a link that is turned to another folder later changes nothing.

    Raises:
        ModelRefusedError: neither a folder nor a checkpoint of the hub, or one that takes its weights from elsewhere.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _downloaded(name)
    folder = folder.resolve()
    if (folder / "adapter_config.json").exists():
        raise ModelRefusedError(
            f"model {name!r} is an adapter (adapter_config.json): most of its weights are those of another checkpoint,"
            " which may change behind it. Accepted: the adapter merged into its base, as one checkpoint."
        )
    return folder


def file_digest(folder: Path) -> str:
    """BLAKE2b-256 over every file that can shape what a model computes, whole: which checkpoint it is.

    The same bytes in another folder give the same digest; a changed weight, template or image size gives another one.

    Raises:
        ModelRefusedError: a file cannot be read, or weights are named that lie elsewhere; the message names it.
    """
    total = hashlib.blake2b(digest_size=32, person=b"lookonce-files")
    try:
        files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        _check_indices(files)
        names = sorted(files)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = pool.map(_content_digest, (files[name] for name in names))
            for name, content in zip(names, contents, strict=True):
                total.update(name.encode("unicode_escape") + f" {content}\n".encode())  # no name can feign a line
    except OSError as error:
        raise ModelRefusedError(f"The checkpoint in {folder} cannot be read: {error}.") from error
    return total.hexdigest()


def check_unchanged(folder: Path, digest: str) -> None:
    """Make sure that a checkpoint is what it was before it was loaded.

    Args:
        folder: of the checkpoint.
        digest: its `file_digest` from before the first of its files was loaded.

    Raises:
        ModelRefusedError: it is not.
    """
    if file_digest(folder) != digest:
        raise ModelRefusedError(
            f"The files in {folder} changed while the model was loaded from them, so that nobody can tell which"
            " checkpoint this is. Start the server again when they are complete."
        )


def check_code(folder: Path) -> None:
    """Refuse a checkpoint that has code of its own in another repository of the hub, where it may change behind it.

    To be called where such code is trusted; else none is run.

    Raises:
        ModelRefusedError: it has.
    """
    for path in folder.glob("*.json"):
        content = json.loads(path.read_bytes())
        named = content.get("auto_map") if isinstance(content, dict) else None
        if "--" in json.dumps(named):
            raise ModelRefusedError(
                f"{path}: its auto_map names code in another repository. Accepted: code in files of the same folder."
            )


def fingerprint(checkpoint: str, dtype: torch.dtype, processor: Any) -> str:
    """BLAKE2b-256 over a checkpoint's `file_digest` and the arithmetic it is run in: replicas of one share contexts.

    That is the dtype, and how pictures are resized: transformers' minor version, and which of its image processors is
    used, as there is one on torchvision and one on Pillow for the same checkpoint.
    """
    version = ".".join(transformers.__version__.split(".")[:2])
    text = f"{dtype} transformers {version} {type(processor.image_processor).__name__}\n{checkpoint}\n"
    return hashlib.blake2b(text.encode(), digest_size=32, person=b"lookonce-model").hexdigest()


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name, ignore_patterns=list(_IGNORED)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelRefusedError(
            f"model {name!r}: no folder of that name, and not to be had from the hub ({type(error).__name__})."
            " Accepted: the path of a checkpoint folder, or a hub name such as 'llava-hf/llava-1.5-7b-hf'."
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    """The files that count, in folders below too; links are followed, as loaders do."""
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        inside = Path(parent)
        if inside.resolve() in {above.resolve() for above in inside.parents}:  # a link upwards: it would never end
            folders.clear()
            continue
        for path in map(inside.joinpath, names):
            name = path.relative_to(folder).as_posix().lower()
            if path.is_file() and not any(fnmatchcase(name, pattern) for pattern in _IGNORED):
                yield path


def _check_indices(files: Mapping[str, Path]) -> None:
    """Raise ModelRefusedError at an index that names weights which are there, but not among the files that count."""
    counted = {path.resolve() for path in files.values()}
    for index in (path for name, path in files.items() if name.endswith(".safetensors.index.json")):
        for shard in _shards(index):
            if (index.parent / shard).exists() and (index.parent / shard).resolve() not in counted:
                raise ModelRefusedError(
                    f"{index} names {shard!r}. Accepted: safetensors files of the same folder, or of folders below it,"
                    " that are not hidden."
                )


def _shards(index: Path) -> set[str]:
    """The files that an index names; none for one that no loader could use either."""
    try:
        return {str(shard) for shard in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _content_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _raise(error: OSError) -> None:
    raise error
