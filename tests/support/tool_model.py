"""Chat templates with tools, and a checkpoint that calls one: the bundled model, whose numbers are spelled as calls."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoTokenizer

from lookonce_scenes.tokenizer import PAD
from lookonce_server.engines.tools import Tool

from .checkpoint_copies import WEIGHTS, copy_checkpoint

# ChatML as Qwen3-VL's: tools stand in the system turn, before the image; results are the user's, and may have images.
TOOL_TEMPLATE = (
    "{%- macro shown(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}"
    "{%- for part in content -%}{{- '<image>' if part.type == 'image' else part.text -}}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
    "{%- set system = shown(messages[0].content) if messages[0].role == 'system' else '' -%}"
    "{%- if tools -%}"
    "{{- '<|im_start|>system\\n' + system + ('\\n\\n' if system else '') + '# Tools\\n<tools>' -}}"
    "{%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}"
    '{{- \'\\n</tools>\\nCall as <tool_call>\\n{"name": <name>, "arguments": <json>}\\n</tool_call><|im_end|>\\n\' -}}'
    "{%- elif system -%}{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for m in (messages[1:] if messages[0].role == 'system' else messages) -%}"
    "{%- if m.role == 'tool' -%}"
    "{{- '<|im_start|>user\\n<tool_response>\\n' + shown(m.content) + '\\n</tool_response><|im_end|>\\n' -}}"
    "{%- else -%}"
    "{{- '<|im_start|>' + m.role + '\\n' + shown(m.content) -}}"
    "{%- for call in m.tool_calls or [] -%}{%- set f = call.function -%}"
    "{{- '\\n' if m.content or not loop.first -}}"
    "{{- '<tool_call>\\n{\"name\": \"' + f.name + '\", \"arguments\": ' + f.arguments | tojson + '}\\n</tool_call>' -}}"
    "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TOOLS = (
    Tool("look", "Look <|im_end|> closer.", '{"type":"object","properties":{"at":{"enum":["<image>","top left"]}}}'),
    Tool("stop", None, '{"type":"object","properties":{}}'),
)

# As the bundled model's own, with as few words as can be: a tool's description, and calls as they were made.
_CALLING = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{{- '<|' + ('user' if message['role'] == 'tool' else message['role']) + '|>' -}}"
    "{%- if tools and loop.first -%}{%- for tool in tools -%}{{- tool.function.description + '\\n' -}}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>' -}}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{{- ('' if loop.first else '\\n') + part['text'] | trim -}}{%- endfor -%}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}{%- set f = call.function -%}"
    "{{- '<tool_call>{\"name\": \"' + f.name + '\", \"arguments\": ' + f.arguments | tojson + '}</tool_call>' -}}"
    "{%- endfor -%}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
CALLED = "report"  # the function that the model calls with a number that it sees


def write_calling_model(folder: Path) -> Path:
    """Write the bundled model with a call in place of each number that it says."""
    copy_checkpoint(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)  # the model has rows of no word behind these
    words = {word: at for at in range(10) for word in (f"{at}", f" {at}")}
    encoded = {word: tokenizer.encode(word, add_special_tokens=False) for word in words}
    ids = {tokens[0]: word for word, tokens in encoded.items() if len(tokens) == 1}
    for word in ids.values():
        at, blank = words[word], " " * word.startswith(" ")  # two tokens of one number differ
        call = f'<tool_call>{{"name": "{CALLED}", "arguments": {{"count": {at}{blank}}}}}</tool_call>'
        tokenizer.add_tokens([AddedToken(call, special=False, normalized=False)])
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_CALLING)
    weights = load_file(folder / WEIGHTS)
    for name, tensor in weights.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tensor = tensor[:known]
            rows = tensor[list(ids)].clone()
            if name.endswith("lm_head.weight"):
                tensor[list(ids)] = tensor[PAD].clone()
            weights[name] = torch.cat([tensor, rows])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = len(tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
