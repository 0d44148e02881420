"""What the families' published checkpoints are, as their config.json and preprocessor_config.json have it.

Stated here, since no hub is asked: what the tiny checkpoints' classes make of it is computed.
"""

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image
from transformers import PreTrainedTokenizerFast

from lookonce_cache.format.quantization import parts_of
from lookonce_pruning import kept_count
from lookonce_server.engines.prompts import PromptRenderer

from ..support.checkpoints import CHECKPOINTS, build_processor
from ..support.families import pixels
from ..support.samples import PROMPT

RETENTION, PRECISION = 0.05, "int8"
SIZES = ((448, 448), (1344, 1008))  # width and height of pictures

Processor = Callable[[PreTrainedTokenizerFast], Any]


class Published(NamedTuple):
    """A family's published checkpoint.

    Attributes:
        name: the checkpoint's.
        layers: of the text model.
        heads: key-value heads of a layer.
        head_dim: channels of a head.
        processor: with the published settings; None where they are not known here.
    """

    name: str
    layers: int
    heads: int
    head_dim: int
    processor: Processor | None = None

    def context_bytes(self, image_tokens: int) -> int:
        """Count the bytes of an image's kept tokens, keys and values, without the prompt's own tokens."""
        shape = (self.layers, self.heads, kept_count(RETENTION, image_tokens), self.head_dim)
        parts = [part for role in ("keys", "values") for part in parts_of(role, PRECISION, torch.bfloat16, shape)]
        return sum(prod(part.shape) * part.dtype.itemsize for part in parts)


def count_image_tokens(family: str, size: tuple[int, int]) -> int | None:
    """Count the image tokens of a picture with the published settings, None where they are not known."""
    build = PUBLISHED[family].processor
    if build is None:
        return None
    checkpoint = CHECKPOINTS[family]
    processor = build_processor(checkpoint._replace(processor=checkpoint.processor._replace(build=build)))
    prompts = PromptRenderer(processor, checkpoint.config(processor.tokenizer))
    return len(prompts.describe(PROMPT, Image.new("RGB", size, "white")).image_positions)


def _clip(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": _square(side)}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _edges(least: int, most: int) -> dict[str, int]:
    return {"shortest_edge": least, "longest_edge": most}


def _llava(t: PreTrainedTokenizerFast) -> Any:
    images = pixels("clip", **_clip(336))
    return transformers.LlavaProcessor(images, t, 14, "default", num_additional_image_tokens=1)


def _llava_next(t: PreTrainedTokenizerFast) -> Any:
    points = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    images = pixels("llava_next", **_clip(336), image_grid_pinpoints=points)
    return transformers.LlavaNextProcessor(images, t, 14, "default", num_additional_image_tokens=1)


def _llava_onevision(t: PreTrainedTokenizerFast) -> Any:
    points = [list(point) for point in product(range(384, 2305, 384), repeat=2)]
    images = pixels("llava_onevision", size=_square(384), image_grid_pinpoints=points)
    videos = transformers.LlavaOnevisionVideoProcessor()
    return transformers.LlavaOnevisionProcessor(images, t, videos, 729, "full", vision_aspect_ratio="anyres_max_9")


def _qwen(name: str, video: str, patch: int, size: dict[str, int]) -> Processor:
    return lambda t: getattr(transformers, name)(
        pixels("qwen2_vl", size=size, patch_size=patch), t, getattr(transformers, video)()
    )


def _internvl(t: PreTrainedTokenizerFast) -> Any:
    images = pixels("got_ocr2", size=_square(448), max_patches=12)
    return transformers.InternVLProcessor(images, t, transformers.InternVLVideoProcessor(), image_seq_length=256)


def _smolvlm(t: PreTrainedTokenizerFast) -> Any:
    images = pixels("smolvlm", size={"longest_edge": 4 * 384}, max_image_size={"longest_edge": 384})
    return transformers.SmolVLMProcessor(images, t, transformers.SmolVLMVideoProcessor(), image_seq_len=81)


def _idefics3(t: PreTrainedTokenizerFast) -> Any:
    images = pixels("idefics3", size={"longest_edge": 4 * 364}, max_image_size={"longest_edge": 364})
    return transformers.Idefics3Processor(images, t, image_seq_len=169)


def _rows(name: str, patch: int, longest: int, **options: Any) -> Processor:
    return lambda t: getattr(transformers, name)(
        pixels("pixtral", patch_size=_square(patch), size={"longest_edge": longest}), t, patch, **options
    )


def _glm(t: PreTrainedTokenizerFast) -> Any:
    images = pixels("glm4v", size=_edges(12544, 9633792))
    return transformers.Glm4vProcessor(images, t, transformers.Glm4vVideoProcessor())


_QWEN2_PIXELS = _edges(3136, 12845056)
PUBLISHED = {
    "llava": Published("llava-1.5-7b-hf", 32, 32, 128, _llava),
    "llava_next": Published("llava-v1.6-mistral-7b-hf", 32, 8, 128, _llava_next),
    "llava_onevision": Published("llava-onevision-qwen2-7b-ov-hf", 28, 4, 128, _llava_onevision),
    "qwen2_vl": Published(
        "Qwen2-VL-7B-Instruct", 28, 4, 128, _qwen("Qwen2VLProcessor", "Qwen2VLVideoProcessor", 14, _QWEN2_PIXELS)
    ),
    "qwen2_5_vl": Published(
        "Qwen2.5-VL-7B-Instruct", 28, 4, 128, _qwen("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", 14, _QWEN2_PIXELS)
    ),
    "qwen3_vl": Published(
        "Qwen3-VL-8B-Instruct",
        36,
        8,
        128,
        _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor", 16, _edges(65536, 16777216)),
    ),
    "internvl3": Published("InternVL3-8B-hf", 28, 4, 128, _internvl),
    "internvl3_5": Published("InternVL3_5-8B-HF", 36, 8, 128, _internvl),
    "smolvlm": Published("SmolVLM2-2.2B-Instruct", 24, 32, 64, _smolvlm),
    "idefics3": Published("Idefics3-8B-Llama3", 32, 8, 128, _idefics3),
    "mistral3": Published(
        "Mistral-Small-3.1-24B-Instruct-2503", 40, 8, 128, _rows("PixtralProcessor", 14, 1540, spatial_merge_size=2)
    ),
    "pixtral": Published("pixtral-12b", 40, 8, 128, _rows("PixtralProcessor", 16, 1024)),
    "lighton_ocr": Published("LightOnOCR-1B-1025", 28, 8, 128, _rows("LightOnOcrProcessor", 14, 1540)),
    "deepseek_vl": Published(
        "deepseek-vl-1.3b-chat",
        24,
        16,
        128,
        lambda t: transformers.DeepseekVLProcessor(pixels("deepseek_vl", size=_square(384)), t, num_image_tokens=576),
    ),
    "janus": Published(
        "Janus-Pro-7B",
        30,
        32,
        128,
        lambda t: transformers.JanusProcessor(pixels("janus", size=_square(384)), t, num_image_tokens=576),
    ),
    "paddleocr_vl": Published(
        "PaddleOCR-VL",
        18,
        2,
        128,
        lambda t: transformers.PaddleOCRVLProcessor(pixels("paddleocr_vl", size=_edges(147384, 2822400)), t),
    ),
    "glm4v": Published("GLM-4.1V-9B-Thinking", 40, 2, 128, _glm),
    "glm4v_moe": Published("GLM-4.5V", 46, 8, 128, _glm),
    "glm_ocr": Published("GLM-OCR", 16, 8, 128, _glm),
    "ovis2": Published("Ovis2-8B-hf", 28, 4, 128),
    "gemma3": Published(
        "gemma-3-4b-it",
        34,
        4,
        256,
        lambda t: transformers.Gemma3Processor(pixels("gemma3", size=_square(896)), t, image_seq_length=256),
    ),
    "aya_vision": Published("aya-vision-8b", 32, 8, 128),
    "cohere2_vision": Published("command-a-vision-07-2025", 64, 8, 128),
}
"""By the names of the families' tiny checkpoints."""
