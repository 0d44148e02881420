"""Record attention, select image tokens, pack their keys and values.

A describe pass runs inside an `AttentionRecorder`; a `Selection` turns its scores into indices; `compress` makes the
packed context. This package knows torch and transformers, and no network, cache or server. What needs torch is imported
when it is first asked for: the names of selections and windows are there at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lookonce_pruning.errors import PruningError, RecordingError, UnknownSelectionError, UnsupportedModelError
from lookonce_pruning.retention import kept_count
from lookonce_pruning.selection import SELECTIONS, Selection, get_selection
from lookonce_pruning.window import ScoreQueries, middle_layers, parse_window
from lookonce_torch import install

if TYPE_CHECKING:
    from lookonce_pruning.architecture import (
        attention_layers,
        check_architecture,
        count_recurrent_layers,
        empty_cache,
        find_window,
        set_states,
        stack_states,
    )
    from lookonce_pruning.capture import attention_rows
    from lookonce_pruning.knockout import Blocked, Knockout
    from lookonce_pruning.layout import TileBlock, TileLayout
    from lookonce_pruning.packed_context import PackedContext, compress, kept_columns
    from lookonce_pruning.recorder import AttentionRecorder, query_rows
    from lookonce_pruning.rope import (
        Rope,
        check_moved,
        check_rotation,
        find_rope,
        fit_rope,
        last_position,
        rope_of_config,
        rotate_keys,
        trained_length,
    )
    from lookonce_pruning.scores import ImageScores

__all__ = [
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
]

_NEED_TORCH = {
    "AttentionRecorder": "recorder",
    "Blocked": "knockout",
    "ImageScores": "scores",
    "Knockout": "knockout",
    "PackedContext": "packed_context",
    "Rope": "rope",
    "TileBlock": "layout",
    "TileLayout": "layout",
    "attention_layers": "architecture",
    "attention_rows": "capture",
    "check_architecture": "architecture",
    "check_moved": "rope",
    "check_rotation": "rope",
    "compress": "packed_context",
    "kept_columns": "packed_context",
    "count_recurrent_layers": "architecture",
    "empty_cache": "architecture",
    "find_rope": "rope",
    "find_window": "architecture",
    "fit_rope": "rope",
    "last_position": "rope",
    "query_rows": "recorder",
    "rope_of_config": "rope",
    "rotate_keys": "rope",
    "set_states": "architecture",
    "stack_states": "architecture",
    "trained_length": "rope",
}

install()  # before anything here imports transformers

if not TYPE_CHECKING:  # else every wrong name would pass for one of these

    def __getattr__(name: str) -> object:
        if name not in _NEED_TORCH:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
