"""Where an attention backend keeps what it is given is found out, whatever its layout; others use the CPU's."""

from types import SimpleNamespace

import pytest
import torch

from lookonce_server.engines.vllm.connector.cache_reader import CacheReader

BLOCKS, SIZE, HEADS, DIM = 5, 32, 3, 8


def in_halves(cache, key, value, slots):
    """Keys, then values; as older releases of vLLM have it: [2, blocks, tokens, heads, dim]."""
    cache[0, slots // SIZE, slots % SIZE], cache[1, slots // SIZE, slots % SIZE] = key.to(cache), value.to(cache)


def side_by_side(cache, key, value, slots):
    """Keys beside values, heads first: [blocks, heads, tokens, 2 * dim]."""
    cache[slots // SIZE, :, slots % SIZE] = torch.cat([key, value], dim=-1).to(cache)


def in_small_blocks(cache, key, value, slots):
    """In kernel blocks of 16 tokens, after a header that nobody uses: [2 * blocks, 1 + 2 * 16 * heads * dim]."""
    block, token = slots // 16, slots % 16
    places = 1 + torch.arange(2 * HEADS * DIM) * 16
    cache[block[:, None], places + token[:, None]] = torch.cat([key, value], dim=1).flatten(1).to(cache)


def paired(cache, key, value, slots):
    """Keys with neighbouring dimensions exchanged, as a packing for matrix units might: like `side_by_side`."""
    side_by_side(cache, key.unflatten(-1, (-1, 2)).flip(-1).flatten(-2), value, slots)


LAYOUTS = [
    (in_halves, (2, BLOCKS, SIZE, HEADS, DIM)),
    (side_by_side, (BLOCKS, HEADS, SIZE, 2 * DIM)),
    (in_small_blocks, (2 * BLOCKS, 1 + 2 * 16 * HEADS * DIM)),
    (paired, (BLOCKS, HEADS, SIZE, 2 * DIM)),
]


def layers(write, cache) -> list[SimpleNamespace]:
    def update(layer, key, value, kv_cache, slots):
        write(kv_cache, key, value, slots)

    made = [SimpleNamespace(kv_cache=cache.clone(), num_kv_heads=HEADS, head_size=DIM) for _ in range(2)]
    for layer in made:
        layer.impl = SimpleNamespace(do_kv_cache_update=update)
    return made


def reader(layers, dtype) -> CacheReader | None:
    return CacheReader.of(layers, dtype=dtype, num_blocks=BLOCKS, block_size=SIZE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("write", "shape"), LAYOUTS)
def test_what_is_written_is_read_in_any_layout(write, shape, dtype):
    made = layers(write, torch.randn(shape).to(dtype))
    before = [layer.kv_cache.clone() for layer in made]
    found = reader(made, dtype)
    assert all(torch.equal(layer.kv_cache, old) for layer, old in zip(made, before, strict=True))
    block_ids, positions = (3, 1, 4), torch.tensor([0, 31, 33, 70, 2, 95])
    slots = torch.tensor(block_ids)[positions // SIZE] * SIZE + positions % SIZE
    key, value = torch.randn(2, len(positions), HEADS, DIM).to(dtype)
    write(made[1].kv_cache, key, value, slots)
    assert torch.equal(found.keys(1, block_ids, positions), key.transpose(0, 1))
    assert torch.equal(found.values(1, block_ids, positions), value.transpose(0, 1))


def test_a_cache_that_keeps_something_else_is_not_read():
    def rounded(cache, key, value, slots):
        side_by_side(cache, key.round(), value.round(), slots)

    def without_values(cache, key, value, slots):
        side_by_side(cache, key, torch.zeros_like(value), slots)

    shape = LAYOUTS[1][1]
    assert reader(layers(rounded, torch.zeros(shape)), torch.float32) is None
    assert reader(layers(without_values, torch.zeros(shape)), torch.float32) is None
    assert reader(layers(side_by_side, torch.zeros(shape).to(torch.float8_e4m3fn)), torch.bfloat16) is None
    assert reader(layers(side_by_side, torch.zeros(shape, dtype=torch.bfloat16)), torch.float32) is None
