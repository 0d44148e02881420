"""Show images and videos to a model, with tokens of its own for videos or without.

A model that has video tokens of its own, and whose processor tells their grid (Qwen's do), sees a video as one item. To
any other the frames are images, which follow each other in one turn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from torch import Tensor

from lookonce_pruning import TileLayout
from lookonce_server.engines.visuals import Video, Visual
from lookonce_server.errors import ModelRefusedError

_CLOCK = 1000  # the frames a second by which a processor is told the times of frames


class Media:
    """Show images and videos to one model.

    Args:
        processor: of transformers, with a chat template.
        config: the model's configuration.

    Attributes:
        image_id: of the image token.
        video_id: of the model's own video token; None if it sees a video's frames as images.
        ids: of both.

    Raises:
        ModelRefusedError: the model has no image token.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        image_id = getattr(config, "image_token_id", None)
        if image_id is None:
            raise ModelRefusedError("The model's configuration names no image token.")
        self.image_id = int(image_id)
        self.video_id = _video_id(processor, config)
        self.ids = {self.image_id} if self.video_id is None else {self.image_id, self.video_id}
        self._config = config

    def parts(self, frames: int | None) -> list[dict[str, Any]]:
        """Return an image or a video as parts of a message for the chat template.

        Args:
            frames: of a video; None for an image.
        """
        if frames is not None and self.video_id is not None:
            return [{"type": "video"}]
        return [{"type": "image"}] * (1 if frames is None else frames)

    def options(self, visuals: Sequence[Visual]) -> dict[str, Any]:
        """Return the arguments by which the processor is given images and videos."""
        images, videos = self.split(visuals)
        options: dict[str, Any] = {"images": images} if images else {}
        if videos:
            options["videos"] = [pixels for pixels, _ in videos]
            options["video_metadata"] = [_without_sampling(metadata) for _, metadata in videos]
            options["do_sample_frames"] = False
        return options

    def split(self, visuals: Sequence[Visual]) -> tuple[list[Any], list[tuple[np.ndarray, dict[str, Any]]]]:
        """Return what the model sees as images, and as videos: [frames, height, width, 3], and when they are shown."""
        images: list[Any] = []
        videos = []
        for visual in visuals:
            if not isinstance(visual, Video):
                images.append(visual)
            elif self.video_id is None:
                images += visual.frames
            else:
                videos.append((np.stack([np.asarray(frame) for frame in visual.frames]), _metadata(visual)))
        return images, videos

    def positions(self, ids: Tensor) -> Tensor:
        """Return the places of all image and video tokens in a prompt's ids, `[tokens]`."""
        found = ids == self.image_id
        return (found if self.video_id is None else found | (ids == self.video_id)).nonzero().flatten()


def fitting_layout(layout: TileLayout | None, count: int, frames: int | None) -> TileLayout | None:
    """Return the layout if it has as many tokens as an image, or each frame of a video, has.

    Args:
        layout: as computed from the picture's size.
        count: image tokens, or the video's.
        frames: of a video; None for an image.
    """
    return layout if layout is not None and layout.tokens * (frames or 1) == count else None


def media_grid(
    config: Any, count: int, grids: dict[str, Tensor], frames: int | None, layout: TileLayout | None = None
) -> tuple[int, ...]:
    """Return the grid of an image's tokens, or of a video's: frames, rows and columns.

    Args:
        config: the model's.
        count: image tokens, or the video's.
        grids: `image_grid_thw` or `video_grid_thw`, where the processor tells them.
        frames: of a video; None for an image.
        layout: of the image, or of each frame, where it is known.
    """
    if layout is not None:
        return layout.grid if frames is None else (frames, *layout.grid)
    if frames is None:
        return image_grid(config, count, grids.get("image_grid_thw"))
    if "video_grid_thw" in grids:
        times, *_ = grids["video_grid_thw"].flatten().tolist()
        return times, *image_grid(config, count // times, grids["video_grid_thw"])
    if count % frames:
        return 1, 1, count
    grid = grids.get("image_grid_thw")
    return frames, *image_grid(config, count // frames, None if grid is None else grid.flatten()[:3])


def image_grid(config: Any, count: int, grid_thw: Tensor | None) -> tuple[int, int]:
    """Return the rows and columns of an image's tokens.

    The processor gives them; else they are a square, else one row, as those of several images are.

    Args:
        config: the model's.
        count: image tokens.
        grid_thw: [images, 3] or [3], frames, rows and columns of patches, where the processor tells them.
    """
    if grid_thw is not None and grid_thw.numel() > 3:
        return 1, count
    if grid_thw is not None:
        merge = config.vision_config.spatial_merge_size
        _, height, width = grid_thw.flatten().tolist()
        return height // merge, width // merge
    side = int(count**0.5)
    return (side, side) if side * side == count else (1, count)


def _video_id(processor: Any, config: Any) -> int | None:
    """Return the id of a video token that the template, the processor and the model all know."""
    video_id, video_processor = getattr(config, "video_token_id", None), getattr(processor, "video_processor", None)
    if video_id is None or "video_grid_thw" not in getattr(video_processor, "model_input_names", ()):
        return None
    message = {"role": "user", "content": [{"type": "video"}]}
    try:
        text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    except TemplateError:
        return None
    token = processor.tokenizer.convert_ids_to_tokens(video_id)
    return int(video_id) if token and text.count(token) == 1 else None


def _metadata(video: Video) -> dict[str, Any]:
    """Return when a video's frames are shown, as processors and vLLM want it told."""
    indices = [round(_CLOCK * time) for time in video.times]
    step = (indices[-1] - indices[0]) / max(1, len(indices) - 1) or _CLOCK
    total = max(indices[-1] + 1, round(step * len(indices)))
    return {
        "total_num_frames": total,
        "fps": float(_CLOCK),
        "duration": total / _CLOCK,
        "frames_indices": indices,
        "do_sample_frames": False,  # vLLM's name for that they are chosen
    }


def _without_sampling(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata as transformers has them."""
    return {name: value for name, value in metadata.items() if name != "do_sample_frames"}
