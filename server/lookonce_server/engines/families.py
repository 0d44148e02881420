"""Refuse families of models that image re-prompting cannot serve, from their configuration alone.

Nothing but `config.json` is read, so that a model is refused before its weights are hashed or loaded, in every engine,
and whatever chat template somebody gave it. What is not in this table is tried by the self-check.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_pruning import count_recurrent_layers, find_window
from lookonce_server.errors import ModelRefusedError

_COMMON = "Qwen3-VL, Qwen2.5-VL and InternVL3.5"
_SMALL = "SmolVLM, Qwen2.5-VL and LLaVA-OneVision"
# The parts of a configuration in which published checkpoints have that of their text model.
_TEXT_CONFIGS = ("text_config", "language_config", "llm_config")


class Refusal(NamedTuple):
    """The reason against a family, and which ones to use instead."""

    family: str
    reason: str  # completes "it cannot be served by image re-prompting: ..."
    instead: str  # families that are served


_MLA = "its KV cache holds latents (multi-head latent attention) in place of keys that could be moved"
_ENCODER = "it is an encoder-decoder: the image is in its encoder, and not among the decoder's tokens"
_CROSS = "its text sees the image through cross-attention layers, and no image tokens stand in the prompt"
_SHARED = "its last layers have no keys of their own and use those of earlier ones"
_HEADS = "its sliding and its full attention layers have heads of different sizes, of which a context holds one"
_LONGROPE = "its rotary positions are LongRoPE, whose frequencies change with the length"

REFUSALS: Mapping[str, Refusal] = {
    "paligemma": Refusal(
        "PaliGemma",
        "all tokens of its prompt see each other (prefix-LM attention), so that the image's keys change with the"
        " question",
        _SMALL,
    ),
    "mllama": Refusal("Llama 3.2 Vision", _CROSS, _COMMON),
    "llama4": Refusal(
        "Llama 4", "its attention is cut into chunks, and some of its layers have no rotary positions", _COMMON
    ),
    "blip-2": Refusal("BLIP-2", "its text models, OPT and T5, have no rotary positions", _SMALL),
    "instructblip": Refusal(
        "InstructBLIP", "its Q-Former reads the question, so that the image tokens change with it", _SMALL
    ),
    "instructblipvideo": Refusal(
        "InstructBLIP", "its Q-Former reads the question, so that the image tokens change with it", _SMALL
    ),
    "florence2": Refusal("Florence-2", _ENCODER, _SMALL),
    "gemma3n": Refusal("Gemma 3n", _SHARED, _SMALL),
    "gemma4": Refusal("Gemma 4", _HEADS, _COMMON),
    "gemma4_unified": Refusal("Gemma 4", _HEADS, _COMMON),
    "phi3_v": Refusal("Phi-3.5-vision", _LONGROPE, _SMALL),
    "phi4mm": Refusal("Phi-4-multimodal", _LONGROPE, _COMMON),
    "phi4_multimodal": Refusal("Phi-4-multimodal", _LONGROPE, _COMMON),
    "kimi_k25": Refusal("Kimi-K2.5", _MLA, _COMMON),
    "kimi_vl": Refusal("Kimi-VL", _MLA, _COMMON),
    "idefics": Refusal("IDEFICS", _CROSS, "Idefics3, SmolVLM and Qwen2.5-VL"),
    "pix2struct": Refusal("Pix2Struct", _ENCODER, _SMALL),
    "udop": Refusal("UDOP", _ENCODER, _SMALL),
    "vision-encoder-decoder": Refusal("Donut", _ENCODER, _SMALL),
    "git": Refusal("GIT", "its text model has learned absolute positions", _SMALL),
    "kosmos-2": Refusal("Kosmos-2", "its text model has sinusoidal absolute positions", _SMALL),
}


def check_family(folder: Path, name: str) -> None:
    """Refuse a checkpoint whose configuration shows that it cannot be served.

    Args:
        folder: of the checkpoint.
        name: as the user has given it.

    Raises:
        ModelRefusedError: it cannot; one sentence that says why, and what to use instead.
    """
    config = read_json(folder / "config.json")
    refusal = REFUSALS.get(str(config.get("model_type"))) or _refusal_of_fields(config)
    if refusal is not None:
        raise ModelRefusedError(
            f"{model_label(folder, name)} cannot be served by image re-prompting: {refusal.reason}. Use instead:"
            f" {refusal.instead}."
        )


def vllm_problem(config: Any, *, has_windows: bool = True) -> str | None:
    """Return what vLLM does not serve of what the embedded engine does; None for nothing.

    Args:
        config: of the text model, as transformers loads it.
        has_windows: whether its sliding windows, if it has any, are used.
    """
    if recurrent := count_recurrent_layers(config):
        return f"{recurrent} of its {config.num_hidden_layers} layers are recurrent, and it loads no states of theirs"
    if has_windows and (window := find_window(config)) is not None:
        return f"it loads no contexts into layers with a sliding attention window ({window} tokens)"
    return None


def model_label(folder: Path, name: str) -> str:
    """Return a model as messages name it, with its class where its configuration tells."""
    architectures = read_json(folder / "config.json").get("architectures")
    if isinstance(architectures, list) and architectures:
        return f"model {name!r} ({architectures[0]})"
    return f"model {name!r}"


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if no loader could read it either."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _refusal_of_fields(config: dict[str, Any]) -> Refusal | None:
    """Return the reason that a field of the configuration gives, whatever the family."""
    for part in _parts(config):
        if part.get("is_encoder_decoder"):
            return Refusal("", _ENCODER, _COMMON)
        if part.get("kv_lora_rank") and part.get("use_mla") is not False:
            return Refusal("", _MLA, _COMMON)
        if part.get("cross_attention_layers"):
            return Refusal("", _CROSS, _COMMON)
        if part.get("num_kv_shared_layers"):
            return Refusal("", _SHARED, _COMMON)
    return None


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a configuration, and that of its text model."""
    yield config
    for name in _TEXT_CONFIGS:
        if isinstance(part := config.get(name), dict):
            yield part
