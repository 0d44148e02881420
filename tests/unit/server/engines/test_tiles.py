"""Where image tokens lie in a picture: traced through each family's own processor and model code.

A spot is drawn in the middle of a token's box. What the family's model makes of the picture must then change most at
that token, among those of its block. The models are tiny, and their vision towers look at each patch by itself: so a
token changes only by what it shows.
"""

import random
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image, ImageDraw

from lookonce_pruning import TileLayout
from lookonce_server.engines.media import fitting_layout
from lookonce_server.engines.tiles import Tiles
from lookonce_server.engines.visuals import Video

from ....support.families import (
    PROCESSORS,
    TILE_PATCH,
    TILE_PINPOINTS,
    TILE_SIDE,
    TILED,
    family_processor,
    renderer_of,
)
from ....support.samples import PROMPT, about

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": TILE_PATCH,
}
SIZES = [(200, 200), (300, 170), (120, 310), (500, 90), (64, 260), (113, 97)]


def _text() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**TEXT)


def _llava_next() -> Any:
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=TILE_SIDE, projection_dim=32, **VISION),
        text_config=_text(),
        image_grid_pinpoints=TILE_PINPOINTS,
        vision_feature_layer=-1,
    )
    return transformers.LlavaNextModel(config)


def _llava_onevision() -> Any:
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(image_size=TILE_SIDE, **VISION, vision_use_head=False),
        text_config=_text(),
        image_grid_pinpoints=TILE_PINPOINTS,
        vision_feature_layer=-1,
        vision_aspect_ratio="anyres_max_2",
    )
    return transformers.LlavaOnevisionModel(config)


def _internvl() -> Any:
    vision = transformers.InternVLVisionConfig(
        image_size=[TILE_SIDE, TILE_SIDE],
        **(VISION | {"patch_size": [TILE_PATCH, TILE_PATCH]}),
        layer_scale_init_value=1.0,
    )
    return transformers.InternVLModel(transformers.InternVLConfig(vision_config=vision, text_config=_text()))


def _idefics3(kind: str) -> Any:
    config = getattr(transformers, f"{kind}Config")(
        vision_config=VISION | {"image_size": TILE_SIDE}, text_config=_text(), scale_factor=2
    )
    return getattr(transformers, f"{kind}Model")(config)


def _mistral3(merge: int) -> Any:
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(image_size=112, head_dim=16, **VISION),
        text_config=transformers.MistralConfig(**TEXT, head_dim=16),
        spatial_merge_size=merge,
        vision_feature_layer=-1,
    )
    return transformers.Mistral3Model(config)


def _lighton_ocr() -> Any:
    config = transformers.LightOnOcrConfig(
        vision_config=transformers.PixtralVisionConfig(image_size=112, head_dim=16, **VISION),
        text_config=transformers.Qwen3Config(**TEXT, head_dim=16),
    )
    return transformers.LightOnOcrModel(config)


MODELS = {
    "llava next": _llava_next,
    "llava onevision": _llava_onevision,
    "internvl": _internvl,
    "idefics 3": lambda: _idefics3("Idefics3"),
    "smolvlm": lambda: _idefics3("SmolVLM"),
    "lighton ocr": _lighton_ocr,
    "mistral 3": lambda: _mistral3(2),
    "pixtral": lambda: _mistral3(1),
}


@cache
def processor_of(name: str) -> Any:
    if name == "smolvlm":
        pytest.importorskip("num2words")
    return family_processor(TILED[name], "byte level", prints=False)


@cache
def model_of(name: str) -> Any:
    """A model whose vision tower passes patches on as they were embedded."""
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    (tower,) = (module for name, module in model.named_children() if name.startswith("vision") and "proj" not in name)
    for layer_name, parameter in tower.named_parameters():
        if ".layers." in layer_name or ".layer." in layer_name:
            parameter.data.zero_()
    return model


def features(name: str, picture: Image.Image) -> torch.Tensor:
    """What the model puts at the image tokens, [tokens, hidden]."""
    images = processor_of(name)(images=[picture], text=[TILED[name].placeholder], return_tensors="pt")
    taken = {key: images[key] for key in ("pixel_values", "image_sizes", "pixel_attention_mask") if key in images}
    with torch.no_grad():
        output = model_of(name).get_image_features(**taken).pooler_output
    return torch.cat(list(output)).flatten(0, -2) if not torch.is_tensor(output) else output.flatten(0, -2)


def layout_of(name: str, picture: Image.Image) -> TileLayout:
    """The layout that is told, of as many tokens as the prompt has."""
    prompt = renderer_of(processor_of(name)).describe("Describe.", picture)
    assert prompt.layout is not None, f"{picture.size}: no layout of {len(prompt.image_positions)} tokens"
    assert prompt.grid == prompt.layout.grid
    return prompt.layout


def spots(layout: TileLayout, size: tuple[int, int], seed: int) -> Iterator[tuple[int, torch.Tensor, Image.Image]]:
    """Some tokens of each block, the block's tokens, and the picture with a spot where the token lies."""
    chosen, boxes = random.Random(seed), layout.boxes()
    for tokens in layout.indices():
        corners = [tokens[0, 0], tokens[0, -1], tokens[-1, 0], tokens[-1, -1]]
        inner = chosen.sample(tokens.flatten().tolist(), min(3, tokens.numel()))
        for token in {*map(int, corners), *inner}:
            left, top, right, bottom = boxes[token].tolist()
            if left < -0.01 or top < -0.01 or right > 1.01 or bottom > 1.01:
                continue  # of padding in part
            picture = Image.new("RGB", size)
            x, y = (left + right) / 2 * size[0], (top + bottom) / 2 * size[1]
            wide, high = (right - left) / 4 * size[0], (bottom - top) / 4 * size[1]
            ImageDraw.Draw(picture).rectangle((x - wide, y - high, x + wide, y + high), fill="white")
            yield token, tokens, picture


@pytest.mark.parametrize("name", MODELS)
def test_a_spot_in_a_box_changes_that_token(name):
    for seed, size in enumerate(SIZES):
        layout = layout_of(name, Image.new("RGB", size))
        black = features(name, Image.new("RGB", size))
        assert len(black) == layout.tokens
        shows_nothing = (layout.boxes() == 0).all(dim=1)
        for token, tokens, picture in spots(layout, size, seed):
            change = (features(name, picture) - black).norm(dim=1)
            found = int(tokens.flatten()[change[tokens.flatten()].argmax()])
            assert found == token, f"{size}: {layout.boxes()[found].tolist()} for {layout.boxes()[token].tolist()}"
            assert not change[shows_nothing].any()


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_any_shape_have_their_layout(name):
    """As many tokens as the processor makes, for shapes of which its roundings differ."""
    sizes = random.Random(1)
    for _ in range(40):
        layout_of(name, Image.new("RGB", (sizes.randint(120, 500), sizes.randint(120, 500))))


@pytest.mark.parametrize("name", MODELS)
def test_what_a_picture_brings_is_counted_whole(name):
    """With the markers and breaks among its tokens."""
    prompts, image, question = renderer_of(processor_of(name)), Image.new("RGB", (300, 170)), about("What is it?")
    context = SimpleNamespace(frames=None, full_tokens=prompts.describe(PROMPT, image).tokens)
    counted = prompts.full_prompt_tokens(question, [context], len(prompts.describe_ids(PROMPT)))
    assert counted == prompts.full(question, [image]).tokens


def test_each_frame_of_a_video_is_laid_out_as_a_picture():
    prompts = renderer_of(processor_of("llava onevision"))
    alone = prompts.describe("Describe.", Image.new("RGB", (40, 80)))
    frames = tuple(Image.new("RGB", (40, 80)) for _ in range(3))
    prompt = prompts.describe("Describe.", Video(frames, (0.0, 1.0, 2.0)))
    assert (prompt.layout, prompt.grid) == (alone.layout, (3, *alone.grid))


def test_a_layout_of_other_tokens_is_not_believed():
    layout = Tiles(processor_of("internvl")).layout(Image.new("RGB", (300, 170)))
    assert layout is not None
    assert fitting_layout(layout, layout.tokens, None) == fitting_layout(layout, layout.tokens * 2, 2) == layout
    assert fitting_layout(layout, layout.tokens + 1, None) is None


def test_what_is_not_known_has_no_layout():
    processor = family_processor(PROCESSORS["gemma 3"], "byte level", prints=False)
    assert Tiles(processor).layout(Image.new("RGB", (300, 170))) is None
    changed = family_processor(PROCESSORS["llava next"], "byte level", prints=False)
    changed.image_processor.size.shortest_edge = 42  # tiles would be resized and cropped once more
    assert Tiles(changed).layout(Image.new("RGB", (300, 170))) is None
