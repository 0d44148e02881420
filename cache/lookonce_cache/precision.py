"""Storage precision."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

PRECISIONS = ("native",)
Role = Literal["keys", "values"]


class Part(NamedTuple):
    """One tensor of raw bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def parts_of(role: Role, precision: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> tuple[Part, ...]:
    """What a tensor is stored as."""
    return (Part("codes", dtype, shape),)


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A stored tensor."""

    role: Role
    precision: str
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    parts: tuple[Tensor, ...]

    def dense(self, device: torch.device | str = "cpu") -> Tensor:
        """Dense."""
        return self.parts[0].to(device)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return sum(part.nbytes for part in self.parts)


def stored(tensor: Tensor, role: Role, precision: str) -> StoredTensor:
    """Store."""
    shape = tuple(tensor.shape)
    return StoredTensor(role, precision, tensor.dtype, shape, (tensor,))  # type: ignore[arg-type]
