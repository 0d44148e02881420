"""A checkpoint that reasons: the bundled model, its template opening a thought that its first comma ends."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoTokenizer

from lookonce_scenes.tokenizer import ASSISTANT, CHAT_TEMPLATE, PAD
from lookonce_server.engines.reasoning import END, START

from .checkpoint_copies import WEIGHTS, copy_checkpoint

_OPENED = CHAT_TEMPLATE.replace("'<|assistant|>' -}}{%- endif -%}", f"'<|assistant|>{START}' -}}}}{{%- endif -%}}")


def write_reasoning_model(folder: Path) -> Path:
    """Write the bundled model with the marks as tokens: it says and reads the end as it did a comma."""
    copy_checkpoint(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    comma, words = tokenizer.convert_tokens_to_ids(","), len(tokenizer)  # the model has rows of no word behind these
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (START, END)])
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_OPENED + f"{{#- {END} ends a thought -#}}")
    weights = load_file(folder / WEIGHTS)
    for name, tensor in weights.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tensor = tensor[:words]
            start, end = tensor[ASSISTANT], tensor[comma].clone()
            if name.endswith("lm_head.weight"):
                start = tensor[comma] = tensor[PAD]
            weights[name] = torch.cat([tensor, start[None], end[None]])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = len(tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
