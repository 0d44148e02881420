"""Random-weight checkpoints with the true shapes of published models: speed does not depend on what the weights say."""

from lookonce_evaluation.bench.checkpoints.llava import write_llava
from lookonce_evaluation.bench.checkpoints.qwen2_vl import (
    QWEN2_VL_2B,
    QWEN2_VL_SMALL,
    TINY,
    Qwen2VLShape,
    write_qwen2_vl,
)

__all__ = ["QWEN2_VL_2B", "QWEN2_VL_SMALL", "TINY", "Qwen2VLShape", "write_llava", "write_qwen2_vl"]
