"""The checkpoints that the vLLM benchmark runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lookonce_evaluation.shapes import QWEN2_VL_SMALL, write_llava, write_qwen2_vl
from lookonce_scenes import CHECKPOINT

_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint and how it is asked.

    Attributes:
        label: in the tables.
        dtype: arithmetic.
        write: makes the checkpoint in a folder, and returns where.
        side: of its pictures, in pixels; None for the drawn scenes' own.
        options: of vLLM.
        full_passes: answers a round of the way that caches nothing; as many as ask at once, if these are more.
        full_once_from: concurrency from which on one round of that way must do: it takes minutes.
        full_up_to: highest concurrency at which that way is measured.
    """

    label: str
    dtype: torch.dtype
    write: Callable[[Path], Path]
    side: int | None
    options: dict[str, Any]
    full_passes: int
    full_once_from: int = 1_000
    full_up_to: int = 1_000

    def full_answers(self, concurrency: int, number: int) -> int:
        """How many times the way that caches nothing is asked in a round, of which `number` were before."""
        once = concurrency >= self.full_once_from
        if concurrency > self.full_up_to or (once and number):
            return 0
        return max(self.full_passes, concurrency)


_SMALL = {"kv_cache_memory_bytes": 256 * _MIB}
_LARGE = {"kv_cache_memory_bytes": 1024 * _MIB, "max_model_len": 4096}

MODELS = {
    "scenes": Model("scenes, 5.0 M, float32", torch.float32, lambda _: CHECKPOINT, None, _SMALL, 16),
    "llava": Model(
        "LLaVA shape, 0.9 B, bfloat16",
        torch.bfloat16,
        lambda folder: write_llava(folder / "llava", 1024),
        448,  # 14 x 14 pixels a token
        _LARGE,
        full_passes=2,
        full_once_from=32,
    ),
    # Its vision tower sees four patches a token, and takes most of a full pass: half a minute of two cores.
    "qwen2-vl": Model(
        "Qwen2-VL shape, 0.8 B, bfloat16",
        torch.bfloat16,
        lambda folder: write_qwen2_vl(folder / "qwen2-vl", QWEN2_VL_SMALL),
        896,  # 28 x 28 pixels a token
        _LARGE,
        full_passes=1,
        full_up_to=1,
    ),
}
