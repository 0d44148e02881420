"""Record attention, select image tokens, pack their keys and values.

A describe pass runs inside an `AttentionRecorder`; a `Selection` turns its scores into indices; `compress` makes the
packed context. This package knows torch and transformers, and no network, cache or server.
"""

from __future__ import annotations

from lookonce_pruning.capture import attention_rows
from lookonce_pruning.compress import PackedContext, compress
from lookonce_pruning.errors import PruningError, RecordingError, UnknownSelectionError, UnsupportedModelError
from lookonce_pruning.knockout import Blocked, Knockout
from lookonce_pruning.recorder import AttentionRecorder, ScoreQueries, query_rows
from lookonce_pruning.retention import kept_count
from lookonce_pruning.rope import (
    check_moved,
    check_rotation,
    find_inv_freq,
    inv_freq_of_config,
    last_position,
    rotate_keys,
)
from lookonce_pruning.scores import ImageScores
from lookonce_pruning.selection import SELECTIONS, Selection, get_selection
from lookonce_pruning.window import middle_layers, parse_window

__all__ = [
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
]
