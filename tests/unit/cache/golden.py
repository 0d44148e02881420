"""The golden files: encoded contexts that every release which knows format version 1 must read, and write alike.

A file is never changed once it was released. `python -m tests.unit.cache.golden` writes those that are missing. What is
in them is made here of plain arithmetic, down to the bytes of each precision, so that it is the same everywhere and
stays so if the way a precision chooses its codes is improved.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch

from lookonce_cache import CompressedContext, QuantizedTensor, encode
from lookonce_cache.format.quantization import Part, Role, parts_of

from ...support.cache_samples import make_identity

FOLDER = Path(__file__).with_name("golden")
LONG_DESCRIPTION = "Ein Bild, 一張圖, صورة, 🖼️\n" * 25 + "e\u0301 \0 \u2028 \U0010ffff"


class Case(NamedTuple):
    """What sets a golden context apart."""

    precision: str
    dtype: torch.dtype
    shape: tuple[int, int, int, int] = (2, 2, 3, 8)
    kept: tuple[tuple[int, ...], ...] = ((0, 5),)
    description: str = "A red bicycle."
    grid: tuple[int, ...] = (2, 3)
    layout: tuple[tuple[float, ...], ...] | None = None
    states: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...] = ()


CASES = {
    "native-float32": Case("native", torch.float32),
    "native-bfloat16": Case("native", torch.bfloat16),
    "native-float16": Case("native", torch.float16),
    "fp8": Case("fp8", torch.bfloat16),
    "int8": Case("int8", torch.float16),
    "int4": Case("int4", torch.bfloat16, shape=(1, 2, 3, 64)),
    "int4-odd-head": Case("int4", torch.float32, shape=(2, 1, 2, 5)),
    "kept-per-layer": Case("native", torch.float16, kept=((0, 1, 5), (2, 3, 4))),
    "kept-none": Case("native", torch.bfloat16, kept=((),)),
    "video": Case("native", torch.bfloat16, grid=(3, 1, 2)),
    "tiles": Case(
        "native",
        torch.bfloat16,
        grid=(1, 6),
        layout=((1, 1, 1, 2, 0, 0.0, 0.0, 1.0, 1.0), (2, 1, 1, 1, 1, -0.125, 0.0, 1.125, 1.0)),
    ),
    "states": Case(
        "int8",
        torch.bfloat16,
        states=(("conv", torch.bfloat16, (3, 5, 2)), ("recurrent", torch.float32, (3, 2, 1, 3))),
    ),
    "long-description": Case("native", torch.bfloat16, shape=(1, 1, 1, 2), kept=((3,),), description=LONG_DESCRIPTION),
}


def golden_context(name: str) -> CompressedContext:
    """The context of a golden file."""
    case = CASES[name]
    return CompressedContext(
        identity=make_identity(
            name, precision=case.precision, describe_prompt="Beschreibe das Bild. 描述", retention=0.3
        ),
        keys=_stored("keys", case),
        values=_stored("values", case),
        shared_tokens=11,
        moved_by=-5,
        full_tokens=40,
        kept_indices=torch.tensor(case.kept, dtype=torch.int32),
        scores=_numbers(6).abs(),
        grid=case.grid,
        description=case.description,
        created_at=1_750_000_000.125,
        layout=case.layout,
        states={name: _numbers(math.prod(shape), 5).to(dtype).view(shape) for name, dtype, shape in case.states},
    )


def golden_bytes(name: str) -> bytes:
    """A golden file's."""
    return (FOLDER / f"{name}.context").read_bytes()


def _stored(role: Role, case: Case) -> QuantizedTensor:
    start = 0 if role == "keys" else 17
    parts = parts_of(role, case.precision, case.dtype, case.shape)
    return QuantizedTensor(role, case.precision, case.dtype, case.shape, tuple(_part(part, start) for part in parts))


def _part(part: Part, start: int) -> torch.Tensor:
    """Every kind of code, and scales that leave some numbers within their limits and others beyond."""
    count = torch.Size(part.shape).numel()
    steps = torch.arange(start, start + count)
    if part.dtype == torch.float8_e4m3fn:
        codes = (steps * 37 % 256).to(torch.uint8)
        flat = codes.where(codes & 127 != 127, 126).view(part.dtype)  # but for the two that are not numbers
    elif part.dtype == torch.int8:
        flat = (steps * 37 % 256 - 128).to(torch.int8)
    elif part.dtype == torch.uint8:
        flat = (steps % 6 * 16).to(torch.uint8)  # whole scale_exponents: powers of two are the same on every machine
    elif part.name == "scales":
        columns = torch.tensor([1.5, 1.5 / 2**9, 1.5 / 2**14])[torch.arange(count) % part.shape[-1]]
        flat = columns / 2.0 ** (steps % 3)
    else:
        flat = _numbers(count, start).to(part.dtype)
    return flat.reshape(part.shape)


def _numbers(count: int, start: int = 0) -> torch.Tensor:
    """Some that all float types have."""
    return (torch.arange(start, start + count) * 37 % 101 - 50) / 16


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in CASES:
        path = FOLDER / f"{name}.context"
        if not path.exists():
            path.write_bytes(encode(golden_context(name)))
            print(f"{path}: {path.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
