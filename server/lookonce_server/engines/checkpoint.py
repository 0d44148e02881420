"""Find a checkpoint, and compute its identity."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lookonce_server.engines.digest_cache import DigestCache
from lookonce_server.engines.families import check_family, read_json
from lookonce_server.errors import ModelRefusedError

# The names of the files beside the weights that configurations, processors and tokenizers are loaded from.
_READ = (
    *("*config*.json", "*token*.json", "*template*.json", "*.jinja", "params.json", "tekken.json"),
    *("*vocab*.json", "*vocab*.txt", "vocab.*", "merges.*", "*.model", "*.model.v*", "*.tiktoken", "*.spm"),
    *("*.tokenizer", "bpe.codes", "dict.txt", "normalizer.json", "emoji.json", "byte_maps.json", "word_*.json"),
)
# Weights in other forms than safetensors, which alone are read: pickles could run what they like.
_OTHER_WEIGHTS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.tflite", "*.nemo"),
    *("*.onnx", "*.onnx_data", "*.ot", "*.npz", "*.mlmodel", "*.mlpackage/*", "*.engine"),
)
_WEIGHTS = "model.safetensors"


def find_checkpoint(name: str, *, weights: bool = True) -> Path:
    """Return the folder of a checkpoint, downloaded from the hub if need be.

    Links on the way to it are followed once, here: a link that is turned to another folder later changes nothing.

    Args:
        name: of a folder, or of the hub.
        weights: whether they are downloaded too.

    Raises:
        ModelRefusedError: neither a folder nor a checkpoint of the hub, one that takes its weights from elsewhere, or
            one of a family that cannot be served.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _download(name, weights=weights)
    folder = folder.resolve()
    if (folder / "adapter_config.json").exists():
        raise ModelRefusedError(
            f"model {name!r} is an adapter (adapter_config.json): most of its weights are those of another checkpoint,"
            " which may change behind it. Accepted: the adapter merged into its base, as one checkpoint."
        )
    check_family(folder, name)
    return folder


def file_digest(folder: Path, *, weights: Collection[str] | None = None, everything: bool = False) -> str:
    """Return a BLAKE2b-256 over the files that a checkpoint is loaded from.

    Their names and whole contents count.

    The same bytes in another folder give the same digest; a changed weight, template or image size gives another one.
    Files that no loader opens do not count: texts, pictures, weights in another form or a second time.

    Args:
        folder: of the checkpoint.
        weights: names of the files of weights that are read; None: `transformers_weights`.
        everything: all files count, for code of the checkpoint's own, which may open any.

    Raises:
        ModelRefusedError: a file cannot be read, or weights are named that lie elsewhere; the message names it.
    """
    total = hashlib.blake2b(digest_size=32, person=b"lookonce-files")
    cache = DigestCache()
    try:
        read = transformers_weights(folder) if weights is None else weights
        names = sorted(name for name in {*_files(folder), *read} if everything or name in read or _is_read(name))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = pool.map(cache.digest, (folder / name for name in names))
            for name, content in zip(names, contents, strict=True):
                total.update(name.encode("unicode_escape") + f" {content}\n".encode())  # no name can feign a line
    except OSError as error:
        raise ModelRefusedError(f"The checkpoint in {folder} cannot be read: {error}.") from error
    cache.save()
    return total.hexdigest()


def check_unchanged(folder: Path, digest: str, **files: Any) -> None:
    """Raise ModelRefusedError if a checkpoint changed while it was loaded.

    Args:
        folder: of the checkpoint.
        digest: its `file_digest` from before the first of its files was loaded.
        files: as given to `file_digest`.

    Raises:
        ModelRefusedError: it is not.
    """
    if file_digest(folder, **files) != digest:
        raise ModelRefusedError(
            f"The files in {folder} changed while the model was loaded from them, so that nobody can tell which"
            " checkpoint this is. Start the server again when they are complete."
        )


def transformers_weights(folder: Path) -> set[str]:
    """Return the names of the files of weights that transformers reads.

    An index is among them.

    Raises:
        ModelRefusedError: an index names files that lie elsewhere.
    """
    named = read_json(folder / "config.json").get("transformers_weights")
    candidates = [named] if isinstance(named, str) else [_WEIGHTS, f"{_WEIGHTS}.index.json"]
    name = next((name for name in candidates if (folder / name).is_file()), None)
    if name is None:
        return set()
    return {name, *indexed_weights(folder, name)} if name.endswith(".index.json") else {name}


def indexed_weights(folder: Path, index: str) -> set[str]:
    """Return the names of the files of weights in an index.

    Those that are not there are left to the loader.

    Raises:
        ModelRefusedError: it names files that are no safetensors, or lie outside of the folder.
    """
    weight_map = read_json(folder / index).get("weight_map")
    names = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
    for name in names:
        path = PurePosixPath(name)
        if path.suffix != ".safetensors" or path.is_absolute() or ".." in path.parts:
            raise ModelRefusedError(
                f"{folder / index} names {name!r}. Accepted: safetensors files of the same folder, or of folders below"
                " it."
            )
    return {name for name in names if (folder / name).is_file()}


def check_code(folder: Path) -> None:
    """Refuse a checkpoint whose code lies in another repository of the hub.

    There it may change behind the checkpoint.

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
    """Return a BLAKE2b-256 over a checkpoint's digest and its arithmetic.

    Replicas of one fingerprint share contexts.

    That is the dtype, and how pictures are resized: transformers' minor version, and which of its image processors is
    used, as there is one on torchvision and one on Pillow for the same checkpoint.
    """
    version = ".".join(transformers.__version__.split(".")[:2])
    text = f"{dtype} transformers {version} {type(processor.image_processor).__name__}\n{checkpoint}\n"
    return hashlib.blake2b(text.encode(), digest_size=32, person=b"lookonce-model").hexdigest()


def _download(name: str, *, weights: bool) -> Path:
    """Download a checkpoint; its configuration first, since a family may be refused by that alone."""
    ignored = [*_OTHER_WEIGHTS, *([] if weights else ["*.safetensors"])]
    try:
        check_family(Path(snapshot_download(name, allow_patterns=["config.json"])), name)
        return Path(snapshot_download(name, ignore_patterns=ignored))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelRefusedError(
            f"model {name!r}: no folder of that name, and not to be had from the hub ({type(error).__name__})."
            " Accepted: the path of a checkpoint folder, or a hub name such as 'llava-hf/llava-1.5-7b-hf'."
        ) from error


def _files(folder: Path) -> Iterator[str]:
    """Yield the names of a folder's files that are not hidden; follow links."""
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        inside = Path(parent)
        if inside.resolve() in {above.resolve() for above in inside.parents}:  # a link upwards: it would never end
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in map(inside.joinpath, names):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(folder).as_posix()


def _is_read(name: str) -> bool:
    return any(fnmatchcase(PurePosixPath(name).name.lower(), pattern) for pattern in _READ)


def _raise(error: OSError) -> None:
    raise error
