"""Where the image tokens are in a picture: measured on what transformers' own processors make of it."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaNextImageProcessorPil,
    SiglipImageProcessorPil,
)

from lookonce_server.engines.geometry import Area, ImageCrop, image_crop

SIZES = [(640, 480), (480, 640), (336, 336), (300, 111), (97, 500)]
SQUARE = {"height": 336, "width": 336}
RAW = {"do_normalize": False, "do_rescale": False}
PROCESSORS = {
    "LLaVA-1.5's": CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=SQUARE, **RAW),
    "cropped smaller": CLIPImageProcessorPil(size={"shortest_edge": 384}, crop_size=SQUARE, **RAW),
    "cropped larger, so padded": CLIPImageProcessorPil(size={"shortest_edge": 300}, crop_size=SQUARE, **RAW),
    "squeezed": CLIPImageProcessorPil(size=SQUARE, do_center_crop=False, **RAW),
    "squeezed, then cropped": CLIPImageProcessorPil(size={"height": 400, "width": 360}, crop_size=SQUARE, **RAW),
    "padded to a square": LlavaImageProcessorPil(
        size={"shortest_edge": 336}, crop_size=SQUARE, do_pad=True, image_mean=[0, 0, 0], **RAW
    ),
    "SigLIP's": SiglipImageProcessorPil(size=SQUARE, **RAW),
}


def seen(processor, picture: np.ndarray) -> np.ndarray:
    """What the model gets, [3, rows, columns]."""
    return np.asarray(processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0], dtype=float)


def gradient(width: int, height: int) -> np.ndarray:
    """A picture whose red tells the column and green the row, 25 to 230; its blue is that of no padding."""
    x, y = np.meshgrid(np.linspace(25, 230, width), np.linspace(25, 230, height))
    return np.stack([x, y, np.full_like(x, 200)], axis=-1).round().astype(np.uint8)


def measured(values: np.ndarray, pixels: int) -> tuple[float, float]:
    """Where in the picture a row of what the model gets begins and ends, by the line through its inner colours."""
    rising = np.arange(len(values)) < values.argmax()  # not what falls from the picture to its padding
    inner = np.flatnonzero(rising & (values > 40) & (values < 215))
    slope, start = np.polyfit(inner + 0.5, (values[inner] - 25) / 205 * (pixels - 1) + 0.5, 1)
    return start, start + slope * len(values)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_area_is_what_the_model_sees(name, size):
    processor = PROCESSORS[name]
    framing = image_crop(SimpleNamespace(image_processor=processor))
    found = seen(processor, gradient(*size))
    middle_row, middle_column = found[0, found.shape[1] // 2], found[1, :, found.shape[2] // 2]
    left, right = measured(middle_row, size[0])
    top, bottom = measured(middle_column, size[1])
    area = framing.area(*size)
    for is_, expected, pixels in zip(area, (left, top, right, bottom), size * 2, strict=True):
        assert abs(is_ - expected) < 0.015 * max(pixels, area.right - area.left, area.bottom - area.top)


def test_a_processor_that_cuts_tiles_is_not_known():
    assert image_crop(SimpleNamespace(image_processor=LlavaNextImageProcessorPil())) is None


def test_the_whole_picture_is_shown_unless_something_is_done_to_it():
    assert ImageCrop().area(300, 200) == Area(0, 0, 300, 200)


def test_both_halves_of_what_is_cropped_are_equal():
    assert ImageCrop(shorter_side=336, crop=(336, 336)).area(640, 480) == Area(80, 0, 560, 480)
    assert ImageCrop(pads=True).area(100, 50) == Area(0, -25, 100, 75)
