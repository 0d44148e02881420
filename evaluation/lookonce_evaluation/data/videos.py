"""Held-out moving scenes, with questions about when things happen and what."""

from PIL import Image

from lookonce_evaluation.data.image_set import ImageSet
from lookonce_evaluation.data.scenes import HELD_OUT_SEED
from lookonce_scenes.video import sample_video
from lookonce_scenes.world import render

FRAMES = (4, 6, 8)
"""Of a video, in turn."""


def held_out_videos(count: int, first_seed: int = HELD_OUT_SEED) -> list[ImageSet]:
    """Draw `count` videos that no training has seen: their frames, and their questions."""
    return [_video(first_seed + i, FRAMES[i % len(FRAMES)]) for i in range(count)]


def _video(seed: int, frames: int) -> ImageSet:
    video = sample_video(seed, frames)
    pictures = [Image.fromarray(render(scene)) for scene in video.frames]
    return ImageSet(str(seed), pictures, list(video.questions), [None] * len(video.questions))
