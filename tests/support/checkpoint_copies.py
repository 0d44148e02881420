"""Copies of the bundled checkpoint that a test may damage."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from lookonce_scenes import CHECKPOINT

WEIGHTS = "model.safetensors"


def copy_checkpoint(folder: Path) -> Path:
    """Copy the bundled model to a folder, with files that may be written to."""
    return shutil.copytree(CHECKPOINT, folder, copy_function=shutil.copyfile)


def write_other_weights(path: Path) -> Path:
    """Write a file of weights of the same shapes and names, all of them other ones."""
    weights = {name: -tensor for name, tensor in load_file(CHECKPOINT / WEIGHTS).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return path
