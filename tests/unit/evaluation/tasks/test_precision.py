"""One small evaluation of storage precisions from end to end."""

import torch

from lookonce_cache.format.quantization import PRECISIONS
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.tasks.precision import RETENTIONS, evaluate, markdown


def test_rows_compare_each_precision_with_native(model, settings):
    with torch.inference_mode():
        rows = evaluate(model, held_out(3), settings)
    assert [(row.retention, row.precision) for row in rows] == [(k, p) for k in RETENTIONS for p in PRECISIONS]
    by = {(row.retention, row.precision): row for row in rows}
    for share, stored_tokens in ((1.0, 201), (0.2, 45), (0.05, 15)):
        native, fp8, int8, int4 = (by[share, name] for name in PRECISIONS)
        assert {row.tokens for row in (native, fp8, int8, int4)} == {stored_tokens}  # the two before the image are not
        assert native.bytes == 2 * 8 * 2 * stored_tokens * 32 * 4
        assert native.bytes > 3.5 * fp8.bytes > 3.5 * int8.bytes > 6.2 * int4.bytes
        assert native.total - native.bytes == int4.total - int4.bytes == 4 * (196 + stored_tokens - 5)
        assert native.logit_mean == native.logit_max == native.accuracy_change.value == 0
        assert 0 < int8.logit_mean < fp8.logit_mean < int4.logit_mean < 0.2
        assert int4.logit_max > int4.logit_mean
    table = markdown(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert {line.count("|") for line in table} == {table[0].count("|")}
