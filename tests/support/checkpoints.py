"""Tiny checkpoints of random weights, one of each family, written as the family publishes its own.

Each has the family's fields of configuration, names of weights, processor, tokens, and the shape of its chat template.
The weights are spread wide, so that a wrong position or row shows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from . import family_configs as configs
from .families import (
    PROCESSORS,
    SMALL,
    TILE_PATCH,
    TILE_SQUARE,
    TILED,
    TOKENIZERS,
    Family,
    pixels,
    special,
    wrapped,
)

IMAGE_BOUNDS = {"shortest_edge": 4 * 784, "longest_edge": 64 * 784}  # pixels, of processors by a picture's size


class Checkpoint(NamedTuple):
    """How a family's tiny checkpoint is made.

    Attributes:
        name: of the family, as people say it.
        model: class of the model.
        processor: with its tokens.
        template: of chats.
        config: made of the tokenizer.
        tokenizer: one of TOKENIZERS.
        architecture: as published, where transformers calls the class otherwise.
        is_flat: whether the published configuration has the text model's fields beside the others.
        is_new: whether it was published with the fields of transformers 5.
        tower: before the names of a vision tower's weights, where transformers writes others than were published.
        why_not_vllm: the reason for which vLLM does not serve it.
        is_otherwise_in_vllm: whether vLLM's own full pass is not that of transformers.
    """

    name: str
    model: str
    processor: Family
    template: str
    config: Callable[[PreTrainedTokenizerFast], Any]
    tokenizer: str = "byte level"
    architecture: str | None = None
    is_flat: bool = False
    is_new: bool = False
    tower: str | None = None
    why_not_vllm: str | None = None
    is_otherwise_in_vllm: bool = False

    @property
    def model_type(self) -> str:
        """As in config.json."""
        model_type: str = getattr(transformers, self.model).config_class.model_type
        return model_type


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write a family's checkpoint, the same every time."""
    processor = build_processor(checkpoint)
    tokenizer = processor.tokenizer
    processor.save_pretrained(folder)
    config = checkpoint.config(tokenizer)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        model = getattr(transformers, checkpoint.model)(config)
        _fill_zeros(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    if not checkpoint.is_new:
        _rewrite(folder / "config.json", lambda fields: _as_published(fields, checkpoint))
    if checkpoint.tower is not None:
        _rename_weights(folder / "model.safetensors", "vision_tower.", checkpoint.tower)
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (path := folder / name).exists():
            path.write_text(path.read_text().replace('ImageProcessorPil"', 'ImageProcessor"'))
    return folder


def build_processor(checkpoint: Checkpoint) -> Any:
    """Build a family's processor, with its tokenizer and chat template."""
    family = checkpoint.processor
    backend = TOKENIZERS[checkpoint.tokenizer]()
    backend.add_tokens(special(dict.fromkeys((*family.tokens.values(), *family.more))))
    tokenizer = wrapped(backend, **family.tokens)
    tokenizer.pad_token = tokenizer.eos_token
    processor = family.build(tokenizer)
    processor.chat_template = checkpoint.template
    return processor


def checkpoint_folder(name: str, root: Path) -> Path:
    """Return the folder of a family's checkpoint, written unless it is there."""
    folder = root / name
    return folder if folder.exists() else write_checkpoint(CHECKPOINTS[name], folder)


@torch.no_grad()
def _fill_zeros(model: torch.nn.Module) -> None:
    """Fill what a model begins as zeros, through which no image would be seen, nor a bias."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.1)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=2))


def _rename_weights(path: Path, before: str, after: str) -> None:
    weights = {name.replace(before, after): tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def _as_published(fields: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Name the fields of a configuration as checkpoints do that were published before transformers 5."""
    fields = {
        name: _as_published(value, checkpoint) if isinstance(value, dict) else value for name, value in fields.items()
    }
    if "dtype" in fields:
        fields["torch_dtype"] = fields.pop("dtype")
    rope = fields.get("rope_parameters")
    if isinstance(rope, dict) and not any(isinstance(value, dict) for value in rope.values()):
        del fields["rope_parameters"]
        for name in ("rope_theta", "partial_rotary_factor"):
            if name in rope:
                fields[name] = rope.pop(name)
        kind = rope.pop("rope_type", "default")
        if rope or kind != "default":
            fields["rope_scaling"] = rope | {"rope_type": kind}
    if "architectures" in fields and checkpoint.architecture:
        fields["architectures"] = [checkpoint.architecture]
    if checkpoint.is_flat and "text_config" in fields:
        text = fields.pop("text_config")
        fields = {name: value for name, value in text.items() if name != "model_type"} | fields
    return fields


def _chat(user: str, answer: str, image: str, *, start: str = "", begin: str | None = None) -> str:
    """Write a chat template; "{}" is what a turn says."""
    said = "{% for part in message['content'] %}{{ image if part['type'] == 'image' else part['text'] }}{% endfor %}"
    (ask, asked), (say, end) = ([json.dumps(text) for text in turn.split("{}")] for turn in (user, answer))
    return (
        f"{{% set image = {json.dumps(image)} %}}{{{{ {json.dumps(start)} }}}}"
        "{% for message in messages %}{% if message['role'] == 'assistant' %}"
        f"{{{{ {say} }}}}{said}{{{{ {end} }}}}"
        f"{{% else %}}{{{{ {ask} }}}}{said}{{{{ {asked} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {say if begin is None else json.dumps(begin)} }}}}{{% endif %}}"
    )


def _chatml(image: str) -> str:
    return _chat("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}<|im_end|>\n", image)


def _glm_template(begin: str) -> str:
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    return _chat("<|user|>\n{}", f"{begin}{{}}", image, start="[gMASK]<sop>", begin="<|assistant|>\n")


def _cohere_template(image: str) -> str:
    return _chat("<|USER|>{}<|END|>", "<|CHATBOT|>{}<|END|>", image, start="<s>")


def _qwen(name: str, video: str, patch: int = 14) -> Family:
    size = {"shortest_edge": 4 * 4 * patch**2, "longest_edge": 64 * 4 * patch**2}

    def build(t: PreTrainedTokenizerFast) -> Any:
        images = pixels("qwen2_vl", size=size, patch_size=patch)
        videos = getattr(transformers, video)(size=size, patch_size=patch)
        return getattr(transformers, name)(images, t, videos)

    marks = ("<|vision_start|>", "<|vision_end|>")
    return Family(build, {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}, "<|image_pad|>", marks)


def _glm_processor() -> Family:
    return Family(
        lambda t: transformers.Glm4vProcessor(
            pixels("glm4v", size=IMAGE_BOUNDS), t, transformers.Glm4vVideoProcessor(size=IMAGE_BOUNDS)
        ),
        configs.GLM_TOKENS,
        more=("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
    )


def _paddle_processor() -> Family:
    return Family(
        lambda t: transformers.PaddleOCRVLProcessor(pixels("paddleocr_vl", size=IMAGE_BOUNDS), t),
        {"image_token": "<|IMAGE_PLACEHOLDER|>", "video_token": "<|VIDEO_PLACEHOLDER|>"},
        more=("<|IMAGE_START|>", "<|IMAGE_END|>"),
    )


INSTRUCT = _chat("[INST]{}[/INST]", "{}</s>", "[IMG]", start="<s>")
UTTERANCES = _chat(
    "<|im_start|>User:{}<end_of_utterance>\n", "Assistant:{}<end_of_utterance>\n", "<image>", begin="Assistant:"
)
# Takes texts alone: what is no string is an error, as in Mistral's own.
STRINGS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST]' + message['content'] + '[/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
OVIS2 = Family(
    lambda t: transformers.Ovis2Processor(
        pixels("ovis2", size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=2), t, image_seq_length=16
    ),
    {},
    more=("<IMG_ATOM>", *configs.OVIS2_MARKS),
)
DEEPSEEK_VL = Family(
    lambda t: transformers.DeepseekVLProcessor(
        pixels("deepseek_vl", size=TILE_SQUARE, min_size=TILE_PATCH), t, num_image_tokens=16
    ),
    {"image_token": "<image_placeholder>"},
)
JANUS = Family(
    lambda t: transformers.JanusProcessor(
        pixels("janus", size=TILE_SQUARE, min_size=TILE_PATCH), t, num_image_tokens=16
    ),
    {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"},
)
AYA_VISION = Family(
    lambda t: transformers.AyaVisionProcessor(
        pixels("got_ocr2", size=SMALL, crop_to_patches=True, max_patches=4), t, 7, 28, downsample_factor=2
    ),
    {"image_token": "<image>", "start_of_img_token": "<|START_OF_IMG|>", "end_of_img_token": "<|END_OF_IMG|>"},
    more=("<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"),
)
COMMAND_A = Family(
    lambda t: transformers.Cohere2VisionProcessor(
        transformers.Cohere2VisionImageProcessor(size=SMALL, patch_size=2, max_patches=4), t
    ),
    {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    },
    "<|IMG_PATCH|>",
)
BOS = "<s>"
TOWER = "vision_tower.vision_model."
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CHECKPOINTS = {
    "llava": Checkpoint(
        "LLaVA-1.5", "LlavaForConditionalGeneration", PROCESSORS["llava"],
        _chat("USER: {} ", "ASSISTANT: {}</s>", "<image>\n", begin="ASSISTANT:"), configs.llava, "llama 2", tower=TOWER,
    ),
    "llava_next": Checkpoint(
        "LLaVA-NeXT", "LlavaNextForConditionalGeneration", TILED["llava next"],
        _chat("[INST] {} [/INST]", "{}</s>", "<image>\n"), configs.llava_next, "llama 2", tower=TOWER,
    ),
    "llava_onevision": Checkpoint(
        "LLaVA-OneVision", "LlavaOnevisionForConditionalGeneration", TILED["llava onevision"],
        _chatml("<image>"), configs.llava_onevision, tower=TOWER,
    ),
    "qwen2_vl": Checkpoint(
        "Qwen2-VL", "Qwen2VLForConditionalGeneration", _qwen("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
        _chatml(QWEN_IMAGE), configs.qwen("Qwen2VLConfig", configs.QWEN2_VISION), is_flat=True,
    ),
    "qwen2_5_vl": Checkpoint(
        "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", _qwen("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        _chatml(QWEN_IMAGE), is_flat=True,
        config=configs.qwen("Qwen2_5_VLConfig", configs.QWEN2_5_VISION),
    ),
    "qwen3_vl": Checkpoint(
        "Qwen3-VL", "Qwen3VLForConditionalGeneration", _qwen("Qwen3VLProcessor", "Qwen3VLVideoProcessor", 16),
        _chatml(QWEN_IMAGE), configs.qwen("Qwen3VLConfig", configs.QWEN3_VISION, mrope_interleaved=True),
    ),
    "internvl3": Checkpoint(
        "InternVL3 (-hf)", "InternVLForConditionalGeneration", TILED["internvl"], _chatml("<IMG_CONTEXT>\n"),
        configs.internvl(lambda t: transformers.Qwen2Config(**configs.text_fields(t), rope_parameters=configs.DYNAMIC)),
    ),
    "internvl3_5": Checkpoint(
        "InternVL3.5 (-HF)", "InternVLForConditionalGeneration", TILED["internvl"], _chatml("<IMG_CONTEXT>\n"),
        configs.internvl(lambda t: transformers.Qwen3Config(**configs.text_fields(t), head_dim=configs.HEAD_DIM)),
    ),
    "smolvlm": Checkpoint(
        "SmolVLM2", "SmolVLMForConditionalGeneration", TILED["smolvlm"], UTTERANCES, configs.idefics("SmolVLMConfig")
    ),
    "idefics3": Checkpoint(
        "Idefics3, SmolVLM", "Idefics3ForConditionalGeneration", TILED["idefics 3"], UTTERANCES,
        configs.idefics("Idefics3Config"),
    ),
    "mistral3": Checkpoint(
        "Mistral Small 3.1", "Mistral3ForConditionalGeneration", TILED["mistral 3"], INSTRUCT, configs.mistral3
    ),
    "pixtral": Checkpoint("Pixtral (-hf)", "LlavaForConditionalGeneration", TILED["pixtral"], STRINGS, configs.pixtral),
    "lighton_ocr": Checkpoint(
        "LightOnOCR", "LightOnOcrForConditionalGeneration", TILED["lighton ocr"], _chatml("<|image_pad|>"),
        configs.lighton_ocr, architecture="LightOnOCRForConditionalGeneration",
        why_not_vllm="vLLM's class takes the configuration of Mistral 3 alone",
    ),
    "deepseek_vl": Checkpoint(
        "DeepSeek-VL", "DeepseekVLForConditionalGeneration", DEEPSEEK_VL,
        _chat("User: {}\n\n", "Assistant: {}</s>", "<image_placeholder>", begin="Assistant:"), configs.deepseek_vl,
        why_not_vllm="vLLM has no such class",
    ),
    "janus": Checkpoint(
        "Janus", "JanusForConditionalGeneration", JANUS,
        _chat("<|User|>: {}\n\n", "<|Assistant|>: {}</s>", "<image_placeholder>\n", begin="<|Assistant|>:"),
        configs.janus, why_not_vllm="vLLM has no such class",
    ),
    "paddleocr_vl": Checkpoint(
        "PaddleOCR-VL", "PaddleOCRVLForConditionalGeneration", _paddle_processor(),
        _chat("User: {}\n", "Assistant:\n{}</s>", "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>", start="<s>"),
        configs.paddle_ocr,
    ),
    "glm4v": Checkpoint(
        "GLM-4.1V", "Glm4vForConditionalGeneration", _glm_processor(), _glm_template("<|assistant|>\n"),
        configs.glm("Glm4v", 0.5, [2, 3, 3], attention_bias=True),
    ),
    "glm4v_moe": Checkpoint(
        "GLM-4.5V", "Glm4vMoeForConditionalGeneration", _glm_processor(),
        _glm_template("<|assistant|>\n<think></think>\n"),
        configs.glm(
            "Glm4vMoe", 0.5, [2, 3, 3],
            moe_intermediate_size=64, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1,
            head_dim=configs.HEAD_DIM, use_qk_norm=False,
        ),
    ),
    "glm_ocr": Checkpoint(
        "GLM-OCR", "GlmOcrForConditionalGeneration", _glm_processor(), _glm_template("<|assistant|>\n"),
        configs.glm("GlmOcr", 1.0, configs.MROPE_SECTION, head_dim=configs.HEAD_DIM), is_new=True,
        is_otherwise_in_vllm=True,
    ),
    "ovis2": Checkpoint(
        "Ovis2 (-hf)", "Ovis2ForConditionalGeneration", OVIS2, _chatml("<image>\n"), configs.ovis2,
        why_not_vllm="vLLM has no such class",
    ),
    "gemma3": Checkpoint(
        "Gemma 3", "Gemma3ForConditionalGeneration", PROCESSORS["gemma 3"],
        _chat("<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n{}<end_of_turn>\n", "<boi>", start=BOS),
        configs.gemma3, "pieces", tower=TOWER, why_not_vllm="sliding attention windows",
    ),
    "aya_vision": Checkpoint(
        "Aya Vision", "AyaVisionForConditionalGeneration", AYA_VISION, _cohere_template("<image>"),
        configs.cohere("AyaVisionConfig"), why_not_vllm="sliding attention windows",
    ),
    "cohere2_vision": Checkpoint(
        "Command A Vision", "Cohere2VisionForConditionalGeneration", COMMAND_A, _cohere_template("<|IMG_PATCH|>"),
        configs.cohere("Cohere2VisionConfig", alignment_intermediate_size=64), is_new=True,
        why_not_vllm="sliding attention windows",
    ),
}  # fmt: skip
"""By the name of a family's checkpoint in these tests."""
