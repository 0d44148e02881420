"""Measure a checkpoint, finished or not, on held-out conversations: `python -m lookonce_scenes.evaluate`.

Each answer is right if greedy decoding would give it token by token, which one pass over a packed sample tells. The
image tokens of contexts are dropped as in training; `lookonce eval` measures the server's own selection.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from lookonce_scenes.forms import Exercise, Packer
from lookonce_scenes.model import build_model
from lookonce_scenes.objective import Objective, stack
from lookonce_scenes.other_pictures import OtherPicture, draw_other_pictures, is_right
from lookonce_scenes.packing import CATEGORIES
from lookonce_scenes.tokenizer import build_processor
from lookonce_scenes.training_attention import use_training_attention

HELD_OUT_SEED = 640_000_000
EXERCISES = {
    "single, full": Exercise("single"),
    "single, 20%": Exercise("single", retention=0.2),
    "single, 5%": Exercise("single", retention=0.05),
    "single, none": Exercise("single", retention=0.0),
    "2 joint, full": Exercise("joint", 2),
    "2 joined, 100%": Exercise("joined", 2, retention=1.0),
    "2 joined, 5%": Exercise("joined", 2, retention=0.05),
    "2 joined, none": Exercise("joined", 2, retention=0.0),
    "4 joined, 5%": Exercise("joined", 4, retention=0.05),
    "video, full": Exercise("video", 4),
    "video, 5%": Exercise("video", 4, retention=0.05),
    "video, none": Exercise("video", 4, retention=0.0),
}


class Score(NamedTuple):
    """Answers of one form, by category: `[categories]` each."""

    right: Tensor
    asked: Tensor

    def __str__(self) -> str:
        """All, then each category, in percent."""
        parts = zip(CATEGORIES[1:], self.right[1:].tolist(), self.asked[1:].tolist(), strict=True)
        told = [f"{name} {100 * right / asked:.0f}" for name, right, asked in parts if asked]
        return f"{100 * self.right[1:].sum() / self.asked[1:].sum():.1f}  {' '.join(told)}"


def load_model(path: Path) -> LlavaForConditionalGeneration:
    """Read a checkpoint's folder, or the state of a training that still runs."""
    if path.is_dir():
        model: LlavaForConditionalGeneration = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        return model
    model = build_model(len(build_processor().tokenizer))
    begin = "weight.model."
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(begin)]  # noqa: SIM118 - not a dict
        model.load_state_dict({name.removeprefix(begin): file.get_tensor(name) for name in names})
    return model


@torch.inference_mode()
def score_forms(model: LlavaForConditionalGeneration, pictures: int) -> Iterator[tuple[str, Score]]:
    """Answer packed questions of each form; about so many pictures a form."""
    tokenizer = build_processor().tokenizer
    model.eval()
    use_training_attention(model)
    objective, packer = Objective(model, tokenizer), Packer(tokenizer)
    for name, exercise in EXERCISES.items():
        right = asked = torch.zeros(len(CATEGORIES))
        for first in range(0, pictures, 8):
            seeds = range(HELD_OUT_SEED + first, HELD_OUT_SEED + first + 8, exercise.images)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = objective(stack([packer.pack(seed, exercise) for seed in seeds], exercise))
            right, asked = right + losses.right, asked + losses.asked
        yield name, Score(right, asked)


@torch.inference_mode()
def answer_other_pictures(model: Any) -> Iterator[tuple[OtherPicture, str]]:
    """Ask a model of pictures that other code draws; gives them with its answers."""
    processor: Any = build_processor()
    model.eval()
    for picture in draw_other_pictures():
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": picture.question}]}
        text = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], images=[picture.image], return_tensors="pt", add_special_tokens=False)
        output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        yield picture, processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_scenes.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint's folder, or a training's state.safetensors")
    parser.add_argument("--pictures", type=int, default=160, help="of each form [%(default)s]")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers about other people's pictures")
    arguments = parser.parse_args()
    model = load_model(arguments.checkpoint)
    rights: dict[str, list[bool]] = {}
    for picture, answer in answer_other_pictures(model):
        right = is_right(answer, picture.answer)
        rights.setdefault(picture.kind, []).append(right)
        if arguments.wrong and not right:
            print(f"  {picture.name}: {picture.question} {answer!r}, not {picture.answer!r}")
    told = " ".join(f"{kind} {100 * sum(r) / len(r):.0f}" for kind, r in rights.items())
    every = [right for r in rights.values() for right in r]
    print(f"other people's pictures: {100 * sum(every) / len(every):.1f} of {len(every)}  {told}", flush=True)
    for name, score in score_forms(model, arguments.pictures):
        print(f"{name}: {score}", flush=True)


if __name__ == "__main__":
    main()
