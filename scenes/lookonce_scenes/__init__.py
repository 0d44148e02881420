"""Drawn scenes with exact ground truth, and the small model trained on them.

`world` draws, `questions` asks (with exact answers), `tokenizer`, `model` and `train` make the bundled checkpoint.
"""

from pathlib import Path

from lookonce_torch import install

install()  # before anything here imports transformers

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The bundled checkpoint: a standard `LlavaForConditionalGeneration` folder that any engine loads by path."""

PROFILE = Path(__file__).parent / "profile.json"
"""How images are described for it, as `lookonce calibrate` found; not in the folder, whose files are the checkpoint."""

__all__ = ["CHECKPOINT", "PROFILE"]
