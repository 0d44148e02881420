"""Load the parts of a checkpoint with transformers, or say in one sentence why they cannot be.

Loaders raise whatever they meet: a list of all model classes, a dump of a configuration, a bare KeyError. `refuse` is
the one place where that becomes a sentence.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from lookonce_server.errors import ModelRefusedError, ServerError

_MOST_CHARACTERS = 240  # of a library's own words
_TRANSFORMERS = f"transformers {transformers.__version__}"
# As transformers names libraries, where that is not the name of the package.
_PACKAGES = {"pil": "pillow", "pyav": "av", "opencv": "opencv-python-headless", "protobuf": "protobuf"}
_MISSING = (
    r"requires the (?P<library>\S+) (?:\S+ )?library",
    r"packages that were not found in your environment: (?P<packages>[^\n]+?)\. Run",
    r"[Pp]ackage `(?P<package>[\w.-]+)` is required",
    r"No module named '(?P<module>\w+)",
)
# What libraries say, and what it means.
_MEANINGS: tuple[tuple[str, str], ...] = (
    (r"trust_remote_code|custom code", "it needs code of its own; --trust-remote-code runs it, if you trust it"),
    (
        r"Unrecognized configuration class <class '(?:[\w.-]+\.)?(\w+)'>",
        rf"\1 is the configuration of no image-text-to-text model of {_TRANSFORMERS}",
    ),
    (r"has model type `([^`]+)` but Transformers does not", rf"{_TRANSFORMERS} does not know the model type '\1'"),
    (r"Unrecognized model in", "its config.json names no model type"),
    (
        r"Unrecognized processing class",
        "it has no files of a processor, such as preprocessor_config.json and tokenizer.json",
    ),
    (r"Engine core initialization failed", "its engine core did not start; what vLLM wrote above says why"),
    (r"Model architectures \[([^\]]+)\] are not supported", r"vLLM has no \1"),
    (
        r"'(\w+)' object has no attribute '_get_num_multimodal_tokens'",
        rf"vLLM has no class for it, and its general one needs a processor that counts tokens, as \1 of {_TRANSFORMERS}"
        " does not; try --engine transformers",
    ),
    (
        r"Invalid type of HuggingFace config\. Expected type: <class '[\w.]*\.(\w+)'>,"
        r" but found type: <class '[\w.]*\.(\w+)'>",
        r"vLLM's class for it takes a \1, and the checkpoint has a \2; try --engine transformers",
    ),
)


@contextmanager
def refuse(problem: str) -> Iterator[None]:
    """Turn any error inside the block into one sentence.

    Args:
        problem: that the block would have, as in "model 'm': its processor cannot be loaded".

    Raises:
        ModelRefusedError: the problem, and the reason.
        ServerError: as it was raised inside.
    """
    try:
        yield
    except ServerError:
        raise
    except Exception as error:
        raise ModelRefusedError(f"{problem}: {reason_of(error).rstrip('.:')}.") from error


def reason_of(error: BaseException) -> str:
    """Return an error of a library in one sentence without its end, and without what no person reads."""
    text = _own_text(error)
    if packages := _missing_packages(error, text):
        return f"it needs {' and '.join(packages)}, not installed here: pip install {_install_arguments(packages)}"
    for pattern, meaning in _MEANINGS:
        if found := re.search(pattern, text):
            return found.expand(meaning)
    return f"{type(error).__name__}: {_shorten(text)}" if text.strip() else type(error).__name__


def load_config(folder: Path, label: str, *, trust_remote_code: bool) -> Any:
    """Load a checkpoint's configuration.

    Args:
        folder: of the checkpoint.
        label: of the model in messages.
        trust_remote_code: whether code of the checkpoint may run.

    Raises:
        ModelRefusedError: it cannot be loaded; one sentence that says why.
    """
    return _load(AutoConfig.from_pretrained, folder, label, "configuration", trust_remote_code)


def load_processor(folder: Path, label: str, *, trust_remote_code: bool) -> Any:
    """Load a checkpoint's processor, with a tokenizer, an image processor and a chat template; see `load_config`."""
    processor = _load(AutoProcessor.from_pretrained, folder, label, "processor", trust_remote_code)
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            name = part.replace("_", " ")
            raise ModelRefusedError(
                f"{label}: its processor cannot be loaded: {type(processor).__name__} has no {name}, so that no image"
                " can be shown to the model."
            )
    if not getattr(processor, "chat_template", None):
        raise ModelRefusedError(f"{label} has no chat template, so that no conversation can be rendered.")
    return processor


def auto_class(config: Any, *, trust_remote_code: bool) -> Any:
    """Return the class of transformers that finds a model's own.

    Checkpoints with code of their own name a class by what it was published as, which may be a causal language model.
    """
    named = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    every: tuple[Any, ...] = (AutoModelForImageTextToText, AutoModelForCausalLM, AutoModel)
    return next((auto for auto in every if auto.__name__ in named), AutoModelForImageTextToText)


def load_weights(folder: Path, label: str, *, trust_remote_code: bool, config: Any, **options: Any) -> PreTrainedModel:
    """Load a checkpoint's model; see `load_config`.

    Args:
        folder: of the checkpoint.
        label: of the model in messages.
        trust_remote_code: whether code of the checkpoint may run.
        config: the checkpoint's.
        options: of `from_pretrained`.
    """
    load = partial(auto_class(config, trust_remote_code=trust_remote_code).from_pretrained, config=config, **options)
    model: PreTrainedModel = _load(load, folder, label, "model", trust_remote_code)
    return model


def _load(load: Callable[..., Any], folder: Path, label: str, part: str, trust_remote_code: bool) -> Any:
    with refuse(f"{label}: its {part} cannot be loaded"):
        return load(folder, trust_remote_code=trust_remote_code)


def _own_text(error: BaseException) -> str:
    """Return an error's text; of pydantic's, the first one's alone."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        try:
            return str(errors()[0]["msg"]).removeprefix("Value error, ")
        except (LookupError, TypeError):
            return str(error)
    return str(error)


def _missing_packages(error: BaseException, text: str) -> list[str]:
    """Return the names of the packages that an ImportError misses."""
    if not isinstance(error, ImportError):
        return []
    names: list[str] = []
    for pattern in _MISSING:
        for found in re.finditer(pattern, text):
            names += re.split(r",\s*", found[1])
    packages = (_PACKAGES.get(name.lower(), name.lower() if name.istitle() else name) for name in names)
    return list(dict.fromkeys(packages))


def _install_arguments(packages: list[str]) -> str:
    """Return the arguments by which pip installs packages, in the versions that lookonce wants."""
    extra = (
        text.partition(";")[0].strip() for text in requires("lookonce") or () if "server" in text.partition(";")[2]
    )
    wanted = {re.split(r"[^\w.-]", text)[0].lower(): text for text in extra}
    return " ".join(f"'{wanted[name.lower()]}'" if name.lower() in wanted else name for name in packages)


def _shorten(text: str) -> str:
    """Return the first line of a text, without the dumps that libraries put into it."""
    line = text.strip().splitlines()[0]
    line = re.sub(r"\{[^{}]{40,}\}|\[[^\[\]]{80,}\]|\([^()]{120,}\)", "...", line)
    return line if len(line) <= _MOST_CHARACTERS else line[:_MOST_CHARACTERS].rpartition(" ")[0] + " ..."
