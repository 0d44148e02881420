"""The training's optimizers, and its state on disk (safetensors: no pickle)."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_TOWER_RATE = 0.3
"""The tower learns at this share of the rate once the whole model trains: at the full rate it is damaged."""


class Optimizers:
    """Muon for the layers' matrices, AdamW for everything else.

    Args:
        objective: the module to train.
        vision_only: AdamW alone, over the tower, the projector, the patch head and the words' embeddings.

    """

    def __init__(self, objective: nn.Module, *, vision_only: bool) -> None:
        named = [(n, p) for n, p in objective.named_parameters() if not vision_only or _sees(n)]
        matrices = [(n, p) for n, p in named if p.dim() == 2 and ".layers." in n and not vision_only]
        rest = [(n, p) for n, p in named if all(p is not m for _, m in matrices)]
        self._vision_only = vision_only
        self.all: list[torch.optim.Optimizer] = [torch.optim.AdamW(self._groups(rest), betas=(0.9, 0.98), fused=True)]
        if matrices:
            muon = torch.optim.Muon(self._groups(matrices), weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
            self.all.append(muon)

    def _groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, object]]:
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in named:
            decay = 0.05 if parameter.dim() >= 2 and "embed" not in name else 0.0
            share = _TOWER_RATE if "vision_tower" in name and not self._vision_only else 1.0
            groups.setdefault((decay, share), []).append(parameter)
        return [{"params": ps, "weight_decay": d, "share": s} for (d, s), ps in groups.items()]

    def step(self, rate: float) -> None:
        """One step at a learning rate; clears the gradients."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def parameters(self) -> list[tuple[torch.optim.Optimizer, Tensor]]:
        """Each parameter with the optimizer that holds its state, in a fixed order."""
        return [(o, p) for o in self.all for group in o.param_groups for p in group["params"]]


def _sees(name: str) -> bool:
    return any(part in name for part in ("vision_tower", "patch_head", "projector", "embed_tokens"))


def save_state(path: Path, objective: nn.Module, optimizers: Optimizers | None, stage: int, step: int) -> None:
    """Write weights, optimizer state and progress.

    The file is replaced at once: a kill leaves the last one whole.
    """
    tensors = {f"weight.{name}": tensor.detach().clone() for name, tensor in objective.state_dict().items()}
    for i, (optimizer, parameter) in enumerate(optimizers.parameters() if optimizers else []):
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{i}.{key}"] = value.clone()
    unfinished = path.with_suffix(".tmp")
    save_file(tensors, unfinished, metadata={"progress": json.dumps([stage, step])})
    unfinished.replace(path)


def load_state(path: Path, objective: nn.Module, optimizers: Optimizers | None) -> tuple[int, int]:
    """Read what `save_state` wrote; gives (stage, step)."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        stage, step = json.loads(file.metadata()["progress"])
    weights = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    objective.load_state_dict(weights)
    for i, (optimizer, parameter) in enumerate(optimizers.parameters() if optimizers else []):
        prefix = f"optimizer.{i}."
        state = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        optimizer.state[parameter] = {key: t.to(parameter.device) for key, t in state.items()}
    return stage, step
