"""Values made wrong at random: each is refused with ContextFormatError, or is a whole context of the key asked for.

A long run: `python -m tests.unit.cache.fuzzing --values 1000000`. It prints the seed to repeat it with.
"""

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import msgpack
import torch

from lookonce_cache import (
    PRECISIONS,
    ContextFormatError,
    ContextIdentity,
    ContextKey,
    InvalidContextError,
    decode,
    encode,
)
from lookonce_cache.format.header import DTYPES
from lookonce_cache.format.quantization import parts_of

from ...support.cache_samples import assert_same, context_key, hex_digest, make_context
from .sealing import aligned, memory_limit, opened, pack, packed, sealed

MEMORY = 256 * 1024**2  # bytes that no value of a few kilobytes may take
SECONDS = 1.0  # of this thread, that no such value may take; most take a thousandth
LARGEST = 16 * 1024  # bytes of tensors that are made up to fit a header


class Value(NamedTuple):
    """Bytes, and the key they are asked for by."""

    data: bytes
    key: ContextKey


class Result(NamedTuple):
    """Of a run."""

    seed: int
    outcomes: Counter[str]  # "whole", or the reason of the refusal
    seconds: float
    slowest: float  # seconds of this thread that the slowest took


def fuzz(values: int, seed: int) -> Result:
    """Decode so many wrong values.

    Raises:
        AssertionError: one was decoded to what it is not, or failed in another way than ContextFormatError, or took too
            long. The message has the value.
    """
    chance = random.Random(seed)
    bases, outcomes, slowest = _bases(), Counter[str](), 0.0
    begun = time.perf_counter()
    with memory_limit(MEMORY):
        for number in range(values):
            value = chance.choice(MUTATIONS)(chance, chance.choice(bases), bases)
            started = time.thread_time()
            try:
                outcomes[outcome(value)] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, value {number}: {value.key} {value.data.hex()}") from error
            took = time.thread_time() - started
            slowest = max(slowest, took)
            assert took < SECONDS, f"seed {seed}, value {number}: {took:.1f} s for {value.data.hex()}"
    return Result(seed, outcomes, time.perf_counter() - begun, slowest)


def outcome(value: Value) -> str:
    """What becomes of a value: a reason, or "whole" for a context that has its key and survives another round."""
    try:
        context = decode(value.data, value.key)
    except ContextFormatError as error:
        return error.reason
    assert context.key == context.identity.key() == value.key
    assert_same(decode(encode(context), context.key), context)
    for tensor in (context.keys, context.values):
        dense = tensor.dequantize()
        assert (dense.dtype, tuple(dense.shape)) == (tensor.dtype, tensor.shape)
    return "whole"


def _bases() -> list[Value]:
    """Small values of every precision and shape of index."""
    dense = torch.linspace(-1, 1, 2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    one_row = torch.tensor([[0, 3]], dtype=torch.int32)
    contexts = [
        make_context(
            f"{precision} {dtype} {len(indices)}",
            keys=dense.to(dtype),
            values=-dense.to(dtype),
            kept_indices=indices,
            scores=torch.linspace(0, 1, 4),
            grid=(2, 2),
            precision=precision,
        )
        for precision in PRECISIONS
        for dtype in DTYPES.values()
        for indices in (one_row, torch.tensor([[0], [1]], dtype=torch.int32), one_row[:, :0])
    ]
    states = {"conv": torch.ones(2, 3, dtype=torch.bfloat16), "recurrent": torch.zeros(1, 2, 2)}
    contexts += [replace(context, states=states) for context in contexts[::7]]
    return [Value(encode(context), context.key) for context in contexts]


def _raw(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    return Value(_mangled(chance, base.data, chance.choice(bases).data), base.key)


def _truncated(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    return Value(base.data[: chance.randrange(len(base.data))], base.key)


def _noise(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    return Value(base.data[: chance.choice((0, 8, 12, 24))] + chance.randbytes(chance.randrange(400)), base.key)


def _other_key(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    return Value(base.data, chance.choice((chance.choice(bases).key, context_key(chance.random()))))


def _resealed_header(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    pieces, other = opened(base.data), opened(chance.choice(bases).data)
    return Value(sealed(_mangled(chance, pieces.header, other.header), pieces.tensors), base.key)


def _resealed_tensors(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    pieces, other = opened(base.data), opened(chance.choice(bases).data)
    tensors = _mangled(chance, pieces.tensors, other.tensors)
    if chance.random() < 0.5:  # of the right length, so that what the bytes say is reached
        tensors = tensors[: len(pieces.tensors)].ljust(len(pieces.tensors), b"\0")
    return Value(sealed(pieces.header, tensors), base.key)


def _resealed_total(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    pieces = opened(base.data)
    near, far = len(base.data) + chance.randint(-70, 70), chance.getrandbits(64)
    return Value(sealed(*pieces, total=chance.choice((near, far)), version=chance.choice((1, 1, 1, 2))), base.key)


def _swapped(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    other = chance.choice(bases)
    return Value(sealed(opened(base.data).header, opened(other.data).tensors), chance.choice((base.key, other.key)))


def _fields(chance: random.Random, base: Value, bases: list[Value]) -> Value:
    """Fields replaced by other objects, asked for by the key of what the header says, and often with fitting sizes."""
    pieces = opened(base.data)
    fields = msgpack.unpackb(pieces.header, use_list=False)
    other = msgpack.unpackb(opened(chance.choice(bases).data).header, use_list=False)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.random() < 0.4:
            fields["identity"] = _changed(chance, fields["identity"], other["identity"])
        else:
            fields = _changed(chance, fields, other)
        if not isinstance(fields.get("identity"), dict):
            break
    header = _header(chance, fields)
    tensors = _fitting(chance, fields) if chance.random() < 0.7 else None
    return Value(sealed(header, pieces.tensors if tensors is None else tensors), _key_of(fields, base.key))


MUTATIONS: list[Callable[[random.Random, Value, list[Value]], Value]] = [
    _raw,
    _truncated,
    _noise,
    _other_key,
    _resealed_header,
    _resealed_header,
    _resealed_tensors,
    _resealed_total,
    _swapped,
    *[_fields] * 6,
]


def _mangled(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """The bytes with a few changed, removed, inserted, repeated, or taken from the other's."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(changed) + 1), chance.choice((1, 1, 4, 8, 64, 300))
        match chance.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + length] = chance.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = chance.randbytes(length)
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                changed[at:] = other[at:]
            case _:
                start = chance.randrange(len(other) + 1)
                changed[at : at + length] = other[start : start + length]
    return bytes(changed)


def _changed(chance: random.Random, fields: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    name = chance.choice(list(fields)) if fields else "tenant"
    old = fields.get(name)
    match chance.randrange(8):
        case 0:
            return {key: value for key, value in fields.items() if key != name}
        case 1:
            return {**fields, _text(chance): _anything(chance)}
        case 2 | 3:
            return {**fields, name: _anything(chance)}
        case 4 if name in other:
            return {**fields, name: other[name]}
        case _:
            return {**fields, name: _near(chance, old)}


def _near(chance: random.Random, value: Any) -> Any:
    """Something that may well be valid, too."""
    match value:
        case int():
            other = chance.choice((value + 1, value - 1, -value, 0, float(value), 1))
            return other if -(2**63) <= other < 2**64 else value  # what msgpack can say
        case float():
            return chance.choice((math.nextafter(value, 1), -value, value / 2, 1, 0.0, 1.0))
        case str() if value in PRECISIONS:
            return chance.choice(PRECISIONS)
        case str() if value in DTYPES:
            return chance.choice(list(DTYPES))
        case str():
            return chance.choice((value + "x", value[:-1], value.upper(), hex_digest(value), _text(chance)))
        case tuple() if value:
            sizes = list(value)
            at = chance.randrange(len(sizes))
            sizes[at] = chance.choice((_near(chance, sizes[at]), chance.randint(0, 8), _number(chance)))
            return chance.choice((tuple(sizes), tuple(chance.sample(value, len(value))), (*value, 1), value[:-1]))
        case _:
            return _anything(chance)


def _anything(chance: random.Random, depth: int = 0) -> Any:
    match chance.randrange(9 if depth < 4 else 6):
        case 0:
            return chance.choice((None, True, False))
        case 1 | 2:
            return _number(chance)
        case 3:
            return _text(chance)
        case 4:
            return chance.randbytes(chance.choice((0, 1, 32)))
        case 5:
            code = chance.randrange(128)
            return chance.choice((msgpack.Timestamp(0), msgpack.ExtType(code, chance.randbytes(chance.randrange(3)))))
        case 6:
            return {_text(chance): _anything(chance, depth + 1) for _ in range(chance.randrange(4))}
        case _:
            return tuple(_anything(chance, depth + 1) for _ in range(chance.choice((0, 1, 2, 4, 20))))


def _number(chance: random.Random) -> int | float:
    near = chance.choice((0, 1, 2**7, 2**8, 2**16, 2**31, 2**32, 2**48, 2**53, 2**63)) + chance.randint(-2, 1)
    odd = chance.choice((0.5, -0.0, 1e308, 5e-324, math.nan, math.inf, -math.inf))
    return chance.choice((near, near, max(-near, -(2**63)), odd, chance.random(), chance.randint(0, 40)))


def _text(chance: random.Random) -> str:
    odd = chance.choice(("", "\0", "\ud800", "acme\n", "../x", "e\u0301🖼", "x" * 600, "x" * 30_000))
    return chance.choice((odd, "acme", *PRECISIONS, *DTYPES, hex_digest(chance.randrange(3))))


def _header(chance: random.Random, fields: dict[str, Any]) -> bytes:
    """Packed, now and then with a field twice or too deep, in any order."""
    pairs = [(key, pack(value)) for key, value in fields.items()]
    match chance.randrange(20):
        case 0 if pairs:
            pairs.append(chance.choice(pairs))
        case 1 if pairs:
            deep = chance.choice((b"\x91", b"\x81\xa1a")) * chance.choice((10, 500, 1000, 1020, 2000)) + b"\x01"
            pairs[chance.randrange(len(pairs))] = (chance.choice(pairs)[0], deep)
        case 2:
            chance.shuffle(pairs)
    return packed(pairs)


def _key_of(fields: dict[str, Any], key: ContextKey) -> ContextKey:
    """The key that the header's identity has, if it has one."""
    try:
        return ContextIdentity(**fields["identity"]).key()
    except (InvalidContextError, KeyError, TypeError):
        return key


def _fitting(chance: random.Random, fields: dict[str, Any]) -> bytes | None:
    """Bytes as long as the tensors that the header says, if there are few."""
    try:
        identity, dtype, shape = ContextIdentity(**fields["identity"]), DTYPES[fields["dtype"]], fields["shape"]
        states = [(DTYPES[name], shape) for _, name, *shape in fields.get("states", ())]
        shapes = (*(fields[name] for name in ("shape", "kept", "grid")), *(shape for _, shape in states))
        if not all(type(size) is int for shape in shapes for size in shape):
            return None
        parts = [part for role in ("keys", "values") for part in parts_of(role, identity.precision, dtype, shape)]
        sizes = [math.prod(part.shape) * part.dtype.itemsize for part in parts]
        (rows, kept), (height, width) = fields["kept"], fields["grid"]
        sizes += [rows * kept * 4, height * width * 4]
        sizes += [math.prod(shape) * dtype.itemsize for dtype, shape in states]
    except (InvalidContextError, KeyError, TypeError, ValueError):
        return None
    if not all(0 <= size < LARGEST for size in sizes):
        return None
    blocks = [chance.randbytes(size) for size in sizes]
    if blocks[len(parts)]:
        blocks[len(parts)] = b"".join(index.to_bytes(4, "little") for index in range(kept)) * rows
    return b"".join(block.ljust(aligned(len(block)), b"\0") for block in blocks[:-1]) + blocks[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode values made wrong at random.")
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)  # noqa: T201
    result = fuzz(arguments.values, arguments.seed)
    for name, count in result.outcomes.most_common():
        print(f"{name:>10} {count:>9}")  # noqa: T201
    speed = arguments.values / result.seconds
    print(f"{result.seconds:.0f} s, {speed:.0f} values/s, the slowest took {result.slowest * 1000:.1f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
