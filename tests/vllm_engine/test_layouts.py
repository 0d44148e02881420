"""Tiles in vLLM: which layout a captured prompt has is decided where its tokens are counted."""

from types import SimpleNamespace

import msgpack
import pytest

from lookonce_pruning import TileBlock, TileLayout
from lookonce_server.engines.vllm.connector.messages import Capture, Compression, Job
from lookonce_server.engines.vllm.connector.scheduler import ConnectorScheduler

IMAGE = 7
WHOLE = (0.0, 0.0, 1.0, 1.0)
TILES = TileLayout((TileBlock(2, 3, 2, 2, 0, *WHOLE), TileBlock(1, 1, 2, 2, 0, *WHOLE)))


@pytest.mark.parametrize(
    ("tokens", "frames", "layout", "grid"),
    [(28, None, TILES, (1, 28)), (56, 2, TILES, (2, 1, 28)), (25, None, None, (5, 5)), (27, None, None, (1, 27))],
)
def test_a_layout_is_believed_where_it_has_the_prompts_tokens(tokens, frames, layout, grid):
    compression = Compression("query", (0, 1), "uniform", 1.0, False, frames, TILES.blocks)
    params = msgpack.unpackb(msgpack.packb(Job(capture=Capture("path", 2, compression)).as_params()))
    capture = Job.of(params).capture
    request = SimpleNamespace(prompt_token_ids=[1, *[IMAGE] * tokens, 2, IMAGE, 3], mm_features=())
    prompt = ConnectorScheduler(SimpleNamespace(image_token_id=IMAGE), 16)._prompt(request, capture)
    assert (prompt.layout, prompt.grid, len(prompt.image_positions)) == (layout, grid, tokens)
