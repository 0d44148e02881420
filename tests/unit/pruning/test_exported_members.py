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
        "Rope",
        "ScoreQueries",
        "Selection",
        "TileBlock",
        "TileLayout",
        "UnknownSelectionError",
        "UnsupportedModelError",
        "attention_layers",
        "attention_rows",
        "check_architecture",
        "check_moved",
        "check_rotation",
        "compress",
        "count_recurrent_layers",
        "empty_cache",
        "find_rope",
        "find_window",
        "fit_rope",
        "get_selection",
        "kept_columns",
        "kept_count",
        "last_position",
        "middle_layers",
        "parse_window",
        "query_rows",
        "rope_of_config",
        "rotate_keys",
        "set_states",
        "stack_states",
        "trained_length",
    }
    assert all(hasattr(lookonce_pruning, name) for name in lookonce_pruning.__all__)


def test_import_registers_nothing():
    code = (
        "import lookonce_pruning, transformers as t;"
        "assert 'lookonce' not in t.AttentionInterface._global_mapping;"
        "assert 'lookonce' not in t.AttentionMaskInterface._global_mapping"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
