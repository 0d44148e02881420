"""A checkpoint that runs code of its own: the bundled model under classes that transformers does not have."""

import json
from pathlib import Path

from .checkpoint_copies import copy_checkpoint

_CODE = {
    "configuration_own.py": """
from transformers import LlavaConfig

class OwnConfig(LlavaConfig):
    model_type = "own_vl"
""",
    "modeling_own.py": """
from transformers import LlavaForConditionalGeneration
from .configuration_own import OwnConfig

class OwnForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = OwnConfig
""",
    "processing_own.py": """
from transformers import LlavaProcessor

class OwnProcessor(LlavaProcessor):
    pass
""",
}


def write_remote_code(folder: Path) -> Path:
    """Write the checkpoint, as such ones are published: its class is named as one of a causal language model."""
    copy_checkpoint(folder)
    for name, code in _CODE.items():
        (folder / name).write_text(code)
    change(
        folder / "config.json",
        model_type="own_vl",
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForConditionalGeneration",
        },
    )
    processor = {"AutoProcessor": "processing_own.OwnProcessor"}
    change(folder / "processor_config.json", processor_class="OwnProcessor", auto_map=processor)
    return folder


def change(path: Path, **fields) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
