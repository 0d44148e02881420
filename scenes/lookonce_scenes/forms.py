"""Pack conversations in the forms in which the server sends them.

- *single*: one picture, asked directly (`<|user|><image>QUESTION<|assistant|>`, a full pass), or after the describe
  turn, with the description visible, or hidden and its positions closed up, as from a compressed context
  (`...<|assistant|></s><|user|>QUESTION<|assistant|>`);
- *joined*: contexts behind each other: `<image>Describe the image.<|assistant|></s><|user|><image>Describe ...`. No
  picture's tokens see another's; the question sees all that is kept;
- *joint*: a full pass of several pictures, with texts between them or over two turns, each seeing what stands before;
- *video*: frames described together, or asked directly.

With context-drop a question sees only part of the image tokens, and sometimes none: then it must be answered from the
describe turns' own tokens. A conversation may go on: earlier questions and answers stay visible.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from lookonce_scenes.album import draw_album_question, sample_scenes
from lookonce_scenes.packing import CATEGORIES, Sample, Sheet, keep_in_all
from lookonce_scenes.phrasings import describe_again, draw_question, matching, noun_for
from lookonce_scenes.questions import DESCRIBE_PROMPTS, Question, with_article
from lookonce_scenes.speech import say
from lookonce_scenes.tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER
from lookonce_scenes.video import DESCRIBE_VIDEO, Video, draw_video_question, sample_video
from lookonce_scenes.world import NARROW, WIDE, Scene, World, sample_scene

SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer the question briefly.", "Answer with one word.")
_SYSTEM_TEXTS = (
    *SYSTEM_PROMPTS, "You are a careful assistant.", "You are a concise assistant.",
    "Answer questions about the image.",
    "You answer questions about images.", "Be careful and concise.", "Answer in one short sentence.",
)  # fmt: skip
_LABELS = (
    ("Image 1", "Image 2", "Image 3", "Image 4"), ("First", "Second", "Third", "Fourth"), ("A", "B", "C", "D"),
    ("Front", "Back", "Top", "Bottom"), ("Before", "After", "Later", "End"), ("1", "2", "3", "4"),
)  # fmt: skip
SINGLE_TEXT, SEVERAL_TEXT, JOINT_HEAD = 224, 320, 56
_NOTHING_KEPT = 0.16
"""Share of the dropping follow-ups that see no image token: the describe turns' own tokens must tell."""


@dataclass(frozen=True)
class Exercise:
    """What a step's samples have in common.

    Attributes:
        form: "single", "joined", "joint" or "video".
        images: pictures a sample.
        max_objects: most objects of a picture.
        drop_rate: share of the questions under context-drop.
        retention: instead, the share of the image tokens that every question sees, asked of a context.
        system: the system prompt of a full pass.

    """

    form: str = "single"
    images: int = 1
    max_objects: int = 4
    drop_rate: float = 0.0
    retention: float | None = None
    system: str | None = None

    @property
    def is_joint(self) -> bool:
        """Whether pictures see those before them."""
        return self.form in ("joint", "video")

    def draw_kept(self, scenes: Sequence[Scene], rng: random.Random, *, is_direct: bool) -> NDArray[np.bool_] | None:
        """Draw the image tokens that a question sees; None for all: `[pictures x IMAGE_TOKENS]`."""
        if self.retention is not None:
            return keep_in_all(scenes, rng, self.retention)
        if rng.random() >= self.drop_rate * (0.5 if is_direct else 1.25):
            return None
        if not is_direct and rng.random() < _NOTHING_KEPT:
            return keep_in_all(scenes, rng, 0.0)
        return keep_in_all(scenes, rng)


def draw_scene(seed: int, max_objects: int = 4) -> Scene:
    """Draw a scene of one of the two worlds."""
    return sample_scene(seed, max_objects=max_objects, world=_world(seed))


def _world(seed: int) -> World:
    return NARROW if seed % 10 < 3 else WIDE


Drawing = Callable[[random.Random], Question | None]


def different(draw: Drawing, rng: random.Random) -> Iterator[Question]:
    """Draw questions without end, each text once."""
    texts = set()
    for _ in range(200):
        question = draw(rng)
        if question and question.text not in texts:
            texts.add(question.text)
            yield question


def _kind(question: Question) -> str:
    name = question.category.removeprefix("one ")
    return name if name in CATEGORIES else "none"


class Packer:
    """Packs the samples of an exercise."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def pack(self, seed: int, exercise: Exercise) -> tuple[Sequence[Scene], Sample]:
        """Pack the sample of a seed, with its pictures."""
        rng = random.Random(seed + 1)
        form = {"single": self._single, "joined": self._joined, "joint": self._joint, "video": self._video}
        sheet = form[exercise.form](seed, exercise, rng)
        return sheet.scenes, sheet.sample()

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def opening(self, system: str | None) -> list[int]:
        """Return the tokens before the first picture."""
        return [BOS, *([SYSTEM, *self._encode(system)] if system else []), USER]

    def _single(self, seed: int, exercise: Exercise, rng: random.Random) -> Sheet:
        scene = draw_scene(seed, exercise.max_objects)
        opening = self.opening(exercise.system)
        sheet = Sheet([scene], len(opening), SINGLE_TEXT)
        at = sheet.place(1, sheet.begin(opening), (0,))

        def draw(rng: random.Random) -> Question | None:
            return describe_again(scene, rng) if rng.random() < 0.02 else draw_question(scene, rng)

        if rng.random() < 0.4 and exercise.retention is None:
            self._ask(sheet, draw, exercise, rng, at, (), is_direct=True)
        else:
            self._describe_and_ask(sheet, draw, exercise, rng, at, rng.choice(DESCRIBE_PROMPTS), scene.caption)
        return sheet

    def _describe_and_ask(
        self, sheet: Sheet, draw: Drawing, exercise: Exercise, rng: random.Random, at: int, prompt: str, caption: str
    ) -> None:
        """Write a describe turn with its description, and questions that see it or do not."""
        turn, description = [*self._encode(prompt), ASSISTANT], [*self._encode(caption), EOS]
        first = sheet.add(turn, [], start=at, sees=(0, *sheet.images))
        at += len(turn)
        second = sheet.add(
            [], description, start=at, sees=(0, *sheet.images, first), kind="description", continues=True
        )
        if rng.random() < 0.3 and exercise.retention is None:
            self._ask(sheet, draw, exercise, rng, at + len(description), (first, second))
        else:
            self._ask(sheet, draw, exercise, rng, at, (first,), is_hidden=True)

    def _joined(self, seed: int, exercise: Exercise, rng: random.Random) -> Sheet:
        video = sample_video(seed, exercise.images, 0) if exercise.images > 2 and rng.random() < 0.5 else None
        scenes = video.frames if video else sample_scenes(seed, exercise.images, _world(seed), exercise.max_objects)
        sheet = Sheet(scenes, 2, SEVERAL_TEXT)
        at = sheet.begin([BOS, USER])
        described = rng.randrange(len(scenes)) if rng.random() < 0.3 else -1
        kept: list[int] = []
        for i, scene in enumerate(scenes):
            if i:
                kept.append(sheet.add([EOS, USER], [], start=at, sees=(0,)))
                at += 2
            at = sheet.place(i + 1, at, (0,))
            turn = [*self._encode(DESCRIBE_PROMPTS[0]), ASSISTANT]
            kept.append(sheet.add(turn, [], start=at, sees=(0, i + 1)))
            at += len(turn)
            if i == described:
                answer = [*self._encode(scene.caption), EOS]
                sheet.add([], answer, start=at, sees=(0, i + 1, kept[-1]), kind="description", continues=True)
        draw = _drawing(scenes, video)
        if video is not None or rng.random() < 0.8:
            draw = draw if video else _of_all(draw, scenes)
            self._ask(sheet, draw, exercise, rng, at, tuple(kept), is_hidden=True)
            return sheet
        # The last picture came in a turn of its own, after questions about the others.
        said = [EOS]
        for begin, end in pairwise((0, *_turns(len(scenes), rng), len(scenes))):
            if end < len(scenes):
                said += [USER, *self._turn(scenes[begin:end], rng, 32, _marks_of(range(begin, end)))]
        kept.append(sheet.add(said, [], start=at, sees=(0, *sheet.images, *kept)))
        mark = _marks_of(range(begin, end))
        draw = _of_newest(draw, scenes[-1]) if begin == len(scenes) - 1 else draw
        self._ask(sheet, draw, exercise, rng, at + len(said), tuple(kept), mark=mark)
        return sheet

    def _joint(self, seed: int, exercise: Exercise, rng: random.Random) -> Sheet:
        scenes = sample_scenes(seed, exercise.images, _world(seed), exercise.max_objects)
        sheet = Sheet(scenes, JOINT_HEAD, SEVERAL_TEXT)
        at = sheet.begin(self.opening(exercise.system))
        labels = rng.choice(_LABELS) if rng.random() < 0.3 else ()
        turns = _turns(len(scenes), rng) if not labels and rng.random() < 0.4 else ()
        room = (JOINT_HEAD - at) // max(1, len(turns)) - 1
        seen: tuple[int, ...] = (0,)
        for i in range(len(scenes)):
            between: list[int] = []
            if labels:
                between = self._encode(f"{labels[i]}:")
            elif i in turns:
                begin = max((t for t in turns if t < i), default=0)
                between = [*self._turn(scenes[begin:i], rng, room), USER]
            if between:
                seen = (*seen, sheet.put(between, at, seen))
                at += len(between)
            at = sheet.place(i + 1, at, seen)
            seen = (*seen, i + 1)
        texts = tuple(s for s in seen if s > len(scenes))
        draw = _drawing(scenes, None)
        if not turns:
            draw = _of_all(draw, scenes)
        elif len(scenes) - 1 in turns:
            draw = _of_newest(draw, scenes[-1])
        self._ask(sheet, draw, exercise, rng, at, texts, is_direct=True)
        return sheet

    def _turn(self, scenes: Sequence[Scene], rng: random.Random, room: int, marks: str = "") -> list[int]:
        """Write a question about the pictures of a turn, with its answer, in so many tokens."""
        for question in different(lambda rng: draw_album_question(scenes, rng), rng):
            turn = [*self._encode(f"{marks}{question.text}"), ASSISTANT, *self._encode(question.answer), EOS]
            if len(turn) <= room:
                return turn
        return [ASSISTANT, EOS]

    def _video(self, seed: int, exercise: Exercise, rng: random.Random) -> Sheet:
        video = sample_video(seed, exercise.images, 0)
        opening = self.opening(exercise.system)
        sheet = Sheet(video.frames, len(opening), SEVERAL_TEXT)
        at = sheet.begin(opening)
        seen: tuple[int, ...] = (0,)
        for image in sheet.images:
            at = sheet.place(image, at, seen)
            seen = (*seen, image)
        draw = _drawing(video.frames, video)
        if rng.random() < 0.35 and exercise.retention is None:
            self._ask(sheet, draw, exercise, rng, at, (), is_direct=True)
        else:
            self._describe_and_ask(sheet, draw, exercise, rng, at, DESCRIBE_VIDEO, video.caption)
        return sheet

    def _ask(
        self,
        sheet: Sheet,
        draw: Drawing,
        exercise: Exercise,
        rng: random.Random,
        start: int,
        base: tuple[int, ...],
        *,
        is_direct: bool = False,
        is_hidden: bool = False,
        mark: str = "",
    ) -> None:
        """Write questions until the sheet is full.

        Args:
            sheet: gets them.
            draw: draws one.
            exercise: its context-drop.
            rng: decides.
            start: position of the first question.
            base: segments of text that each sees.
            is_direct: the first one goes on in the pictures' own turn.
            is_hidden: the first one closes a describe turn that was answered with nothing.
            mark: opens the first one: where a picture of its turn stood.

        """
        is_chained = rng.random() < 0.3
        is_ours = not is_direct  # what the server's own texts open: a system text, and marks where images stood
        system = f"{rng.choice(_SYSTEM_TEXTS)}\n" if is_ours and rng.random() < 0.15 else ""
        if is_hidden and rng.random() < 0.25:
            mark = _marks(len(sheet.scenes), rng)
        asked: tuple[int, ...] = ()
        for question in different(draw, rng):
            opening = [] if is_direct and not asked else [EOS, USER] if is_hidden and not asked else [USER]
            text = say(question.text, rng)
            if not asked:
                text = f"{system}{mark}{text}"
            prompt = [*opening, *self._encode(text), ASSISTANT]
            answer = [*self._encode(question.answer), EOS]
            if not sheet.fits(len(prompt) + len(answer)):
                break
            kept = exercise.draw_kept(sheet.scenes, rng, is_direct=is_direct)
            sees = (0, *sheet.images, *base, *asked)
            segment = sheet.add(prompt, answer, start=start, sees=sees, kind=_kind(question), kept=kept)
            if is_chained:
                start += len(prompt) + len(answer)
                asked += (segment,)


def _drawing(scenes: Sequence[Scene], video: Video | None) -> Drawing:
    if video:
        again = Question("describe", DESCRIBE_VIDEO, video.caption)
        return lambda rng: again if rng.random() < 0.02 else draw_video_question(video, rng)
    return lambda rng: draw_album_question(scenes, rng)


def _of_all(draw: Drawing, scenes: Sequence[Scene]) -> Drawing:
    """Ask of all the pictures of one turn as well, without naming any: whether any has it, how many there are."""

    def ask(rng: random.Random) -> Question | None:
        if len(scenes) == 2 and rng.random() < 0.2:
            told = (f"{name} image: {scene.caption}" for name, scene in zip(("First", "Second"), scenes, strict=True))
            text = rng.choice(("Describe the images.", "Describe both images.", "What do the images show?"))
            return Question("describe", text, " ".join(told))
        wanted = rng.random() < 0.5
        nouns = (noun_for(rng.choice(scenes), rng, there=rng.random() < 0.6) for _ in range(8))
        counts = {noun: sum(len(matching(scene, noun)) for scene in scenes) for noun in nouns if noun}
        fitting = [noun for noun, count in counts.items() if bool(count) == wanted]
        if not fitting:
            return None
        noun = rng.choice(fitting)
        if rng.random() < 0.5:
            text = f"{rng.choice(('Is there', 'Do you see', 'Can you see'))} {with_article(noun)}?"
            return Question("total", text, "Yes" if wanted else "No")
        noun, count = ("object", sum(len(s.objects) for s in scenes)) if rng.random() < 0.4 else (noun, counts[noun])
        return Question("total", f"How many {noun}s {rng.choice(('are there', 'do you see'))}?", str(count))

    return lambda rng: ask(rng) if rng.random() < 0.06 else draw(rng)


def _of_newest(draw: Drawing, newest: Scene) -> Drawing:
    """Ask of the picture that came last as well, without naming it."""
    return lambda rng: draw_question(newest, rng) if rng.random() < 0.3 else draw(rng)


def _turns(count: int, rng: random.Random) -> tuple[int, ...]:
    """Draw with which pictures (from 0) new turns begin: one turn more, or one for each picture."""
    return tuple(range(1, count)) if rng.random() < 0.5 else (rng.randrange(1, count),)


def _marks_of(images: range) -> str:
    """Write where the pictures of a turn stood, as the server does."""
    return "".join(f"[image {image + 1}]\n" for image in images)


def _marks(count: int, rng: random.Random) -> str:
    """Write the places where images stood in a text, mostly as the server does: "Front:", "[image 1]", a line each."""
    if count == 1:
        return ""
    labels = rng.choice((*_LABELS, ("",) * 4))
    colon, end = rng.choice((":\n", ":\n", ": ", ":")), rng.choice(("\n", "\n", "\n", " ", ""))
    return "".join(f"{label}{colon if label else ''}[image {i}]{end}" for i, label in enumerate(labels[:count], 1))
