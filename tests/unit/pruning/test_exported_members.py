from __future__ import annotations

import subprocess
import sys

import lookonce_pruning


def test_public_names():
    assert lookonce_pruning.__all__ == sorted(lookonce_pruning.__all__, key=lambda name: (not name.isupper(), name))
    assert set(lookonce_pruning.__all__) == {
        "SELECTIONS",
        "AttentionRecorder",
        "Blocked",
        "ImageScores",
        "Knockout",
        "PackedContext",
        "PruningError",
        "RecordingError",
        "ScoreQueries",
        "Selection",
        "TileBlock",
        "TileLayout",
        "UnknownSelectionError",
        "UnsupportedModelError",
        "attention_rows",
        "check_moved",
        "check_rotation",
        "compress",
        "find_inv_freq",
        "get_selection",
        "inv_freq_of_config",
        "kept_count",
        "last_position",
        "middle_layers",
        "parse_window",
        "query_rows",
        "rotate_keys",
    }
    assert all(hasattr(lookonce_pruning, name) for name in lookonce_pruning.__all__)


def test_import_registers_nothing():
    code = (
        "from lookonce_server.engines.torch_extensions import install; install();"
        "import lookonce_pruning, transformers as t;"
        "assert 'lookonce' not in t.AttentionInterface._global_mapping;"
        "assert 'lookonce' not in t.AttentionMaskInterface._global_mapping"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
