"""Make torchvision and torchaudio importable beside a torch without CUDA.

vLLM depends on them, and beside a torch for CPUs pip may find their CUDA builds alone, whose compiled parts cannot be
loaded. torchvision's import then fails with "operator torchvision::nms does not exist", since it registers fakes of two
of them; the others' with "Could not load this library". vLLM's model classes and most of transformers import the first
two, and want their Python parts only. Without torchvision vLLM does not import at all: to uninstall it is no way out.

So every package of this distribution that imports transformers calls `install` in its `__init__`, which Python runs
first however the package is entered: by a command, as a library, with `python -m`, or in a process that is spawned.
Those that vLLM spawns are reached by its plugin. Nothing heavy is imported here, and where the imports work nothing is
changed.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType


def _define_operators() -> None:
    """Define the operators that torchvision fakes, without an implementation."""
    from torch import library

    for operator in ("nms", "qnms"):
        library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _hide_extension() -> None:
    """Let torchaudio find no compiled part, which it allows for."""
    sys.modules["torchaudio._extension.utils"]._LIB_DIR = Path("nowhere")  # type: ignore[attr-defined]


def _refuse() -> None:
    """Let importers that allow for it do without torchcodec."""
    raise ImportError("torchcodec's build does not fit this torch")


_REMEDIES = {"torchvision": _define_operators, "torchaudio": _hide_extension, "torchcodec": _refuse}
_ERRORS = ("operator torchvision::", "Could not load this library")


class _RetryingLoader(SourceFileLoader):
    """Import a package, and once more after its remedy where its build does not fit."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (RuntimeError, OSError) as error:
            if not str(error).startswith(_ERRORS) or _torch_has_gpu():
                raise
            _REMEDIES[module.__name__]()
            super().exec_module(module)


class _Finder:
    """A meta path finder for the packages with a remedy, and nothing else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _REMEDIES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _RetryingLoader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Mend the imports of these packages in this process from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.version.cuda or torch.version.hip)
