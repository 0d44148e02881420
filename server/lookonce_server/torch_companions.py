"""Makes torch's companions importable next to a torch without CUDA, where pip may only find their CUDA builds.

Those builds' compiled parts cannot be loaded there, and their imports fail: torchvision's with "operator
torchvision::nms does not exist", since it goes on to register fake versions of two of them, torchaudio's and
torchcodec's with "Could not load this library". vLLM's model classes and transformers' processors import the first two
and want only their Python parts: when such an import has failed, what was missed is supplied, and the import is tried
once more. torchcodec has no use without its compiled part, and is to be taken for not installed.

`lookonce.pth` calls `watch` at each start of Python in this environment, so that the processes which vLLM spawns are
reached too. Nothing heavy is imported here, and nothing is done where the imports work.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType


def _declare_operators() -> None:
    """Declare the operators that torchvision registers fakes for, without an implementation."""
    from torch import library

    for operator in ("nms", "qnms"):
        library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _forget_extension() -> None:
    """Have torchaudio find no compiled part, which it allows for."""
    sys.modules["torchaudio._extension.utils"]._LIB_DIR = Path("nowhere")  # type: ignore[attr-defined]


def _give_up() -> None:
    """Have those who can do without torchcodec do without: they are ready for it not to be there."""
    raise ImportError("torchcodec's build does not fit this torch")


_REMEDIES = {"torchvision": _declare_operators, "torchaudio": _forget_extension, "torchcodec": _give_up}
_COMPLAINTS = ("operator torchvision::", "Could not load this library")


class _Retrying(SourceFileLoader):
    """Imports a package, and once more after its remedy when that was called for."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (RuntimeError, OSError) as error:
            if not str(error).startswith(_COMPLAINTS) or _torch_has_gpu():
                raise
            _REMEDIES[module.__name__]()
            super().exec_module(module)


class _Finder:
    """A meta path finder that finds the packages with a remedy, and nothing else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _REMEDIES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Retrying(spec.loader.name, spec.loader.path)
        return spec


def watch() -> None:
    """See to their imports from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.version.cuda or torch.version.hip)
