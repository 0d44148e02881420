"""Draw moving scenes: one or two things happen over four to eight frames, with questions about when and what.

An object moves along a line, appears, disappears, or changes its colour. Times are answered by the frame ("frame 3"),
events by a sentence ("the red circle disappears").
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from lookonce_scenes.phrasings import matching
from lookonce_scenes.questions import Question, with_article
from lookonce_scenes.world import (
    IMAGE_SIZE,
    REGIONS,
    WIDE,
    Scene,
    SceneObject,
    World,
    draw_tone,
    fits_ground,
    in_reading_order,
    place_object,
    sample_style,
)

DESCRIBE_VIDEO = "Describe the video."
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TIMES = ("never", "once", "twice")


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to one object.

    Attributes:
        name: "move", "appear", "disappear" or "change".
        at: number of the first frame that shows it, from 1; 1 for a move, which takes the whole video.
        before: the object before it; where an object appears, what appears.
        value: the direction, or the new colour.

    """

    name: str
    at: int
    before: SceneObject
    value: str = ""

    @property
    def said(self) -> str:
        """What happens, without the time: "the red circle disappears"."""
        o = self.before
        thing = f"the {o.color} {o.kind}"
        if self.name == "move":
            return f"{thing} moves {self.value}"
        if self.name == "appear":
            return f"{with_article(o.phrase)} appears at the {REGIONS[o.region]}"
        return f"{thing} disappears" if self.name == "disappear" else f"{thing} turns {self.value}"


@dataclass(frozen=True, slots=True)
class Video:
    """A moving scene.

    Attributes:
        frames: scenes in order; `world.render` draws each.
        events: what happens, in order.
        caption: the description the bundled model is trained to give to "Describe the video.".
        questions: of the categories "direction", "when", "what", "often", "after", "frame" and "moving" (yes/no).

    """

    frames: tuple[Scene, ...]
    events: tuple[Event, ...]
    caption: str
    questions: tuple[Question, ...] = ()


def sample_video(seed: int, frames: int = 4, questions: int = 10, world: World = WIDE) -> Video:
    """Draw a video at random.

    Args:
        seed: the same seed gives the same video.
        frames: 3 to 8.
        questions: at most so many, all different.
        world: its shapes and colours are drawn from.

    """
    rng = random.Random(seed)
    while (video := _draw_video(rng, seed, frames, world)) is None:
        pass
    found: dict[str, Question] = {}
    for _ in range(questions * 4):
        if len(found) < questions and (question := draw_video_question(video, rng)):
            found.setdefault(question.text, question)
    return replace(video, questions=tuple(found.values()))


def _draw_video(rng: random.Random, seed: int, frames: int, world: World) -> Video | None:
    """Draw objects and what happens to them; None if there is no room."""
    world = replace(world, is_varied=True)
    style = sample_style(rng)
    objects: list[SceneObject] = []
    for _ in range(rng.choices((1, 2, 3), (3, 4, 2))[0]):
        placed = place_object(rng, objects, world, style, room=16.0)
        if placed is None or (placed.kind, placed.color) in {(o.kind, o.color) for o in objects}:
            return None
        objects.append(replace(placed, line=0.0))
    count = min(len(objects), rng.choices((1, 2), (3, 2))[0])
    paths: list[list[SceneObject | None]] = []
    events: list[Event] = []
    for i, o in enumerate(objects):
        drawn = _draw_path(rng, o, objects, frames, world, is_still=i >= count)
        if drawn is None:
            return None
        paths.append(drawn[0])
        events += drawn[1]
    shown = [in_reading_order([o for path in paths for o in path[t : t + 1] if o]) for t in range(frames)]
    scenes = [Scene(shown_at, seed, world, style) for shown_at in shown]
    if not all(_is_sound(scene, style.ground) for scene in scenes) or len({e.at for e in events}) < len(events):
        return None
    events.sort(key=lambda e: e.at)
    if sum(e.name == "change" for e in events) > 1 and len({e.before.kind for e in events}) > 1:
        return None
    return Video(tuple(scenes), tuple(events), _caption(scenes[0], events))


def _draw_path(
    rng: random.Random, o: SceneObject, objects: list[SceneObject], frames: int, world: World, *, is_still: bool
) -> tuple[list[SceneObject | None], list[Event]] | None:
    """Draw where and how an object is in each frame, and what happens to it."""
    if is_still:
        return [o] * frames, []
    name = rng.choices(("move", "appear", "disappear", "change"), (4, 2 * (len(objects) > 1), 2, 3))[0]
    at = rng.randint(2, frames)
    if name == "appear":
        return [None] * (at - 1) + [o] * (frames - at + 1), [Event(name, at, o)]
    if name == "disappear":
        return [o] * (at - 1) + [None] * (frames - at + 1), [Event(name, at, o)]
    if name == "change":
        return _draw_changes(rng, o, at, frames, world)
    direction, (dx, dy) = rng.choice(list(DIRECTIONS.items()))
    length = rng.uniform(34, 80)
    path: list[SceneObject | None] = []
    for t in range(frames):
        done = t / (frames - 1) * length
        moved = replace(o, x=o.x + dx * done, y=o.y + dy * done)
        if not o.radius + 1 < min(moved.x, moved.y) <= max(moved.x, moved.y) < IMAGE_SIZE - o.radius - 1:
            return None
        path.append(moved)
    return path, [Event("move", 1, o, direction)]


def _draw_changes(
    rng: random.Random, o: SceneObject, at: int, frames: int, world: World
) -> tuple[list[SceneObject | None], list[Event]]:
    """Draw one change of colour, or two."""
    second = rng.randint(at + 1, frames) if at < frames and rng.random() < 0.35 else frames + 1
    colors = rng.sample([c for c in world.colors if c != o.color], 2)
    one, two = (replace(o, color=color, rgb=draw_tone(rng, color)) for color in colors)
    path: list[SceneObject | None] = [o if t < at else one if t < second else two for t in range(1, frames + 1)]
    events = [Event("change", at, o, one.color)]
    if second <= frames:
        events.append(Event("change", second, one, two.color))
    return path, events


def _is_sound(scene: Scene, ground: tuple[int, int, int]) -> bool:
    """Whether a frame shows something, nothing overlaps, and every colour stands out from the ground."""
    objects = scene.objects
    pairs = [(a, b) for i, a in enumerate(objects) for b in objects[:i]]
    apart = all(max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius + 2 for a, b in pairs)
    different = all((a.kind, a.color) != (b.kind, b.color) for a, b in pairs)
    return bool(objects) and apart and different and all(fits_ground(o, scene.style) for o in objects)


def _caption(first: Scene, events: list[Event]) -> str:
    told = []
    for event in events:
        when = "" if event.name == "move" else f" in frame {event.at}"
        told.append(f"{event.said[0].upper()}{event.said[1:]}{when}.")
    return " ".join([first.caption, *told])


# --- questions -------------------------------------------------------------------------------------------------------


def _name(video: Video, o: SceneObject, rng: random.Random) -> str:
    """Name an object of the video: by its kind where no other one has it, else by its first colour too."""
    kinds = [p.kind for p in _cast(video)]
    return o.kind if kinds.count(o.kind) == 1 and rng.random() < 0.6 else f"{o.color} {o.kind}"


def _cast(video: Video) -> list[SceneObject]:
    """Return every object once, as it is first seen."""
    found: dict[str, SceneObject] = {}
    changed = {(e.before.kind, e.value): e.before for e in video.events if e.name == "change"}
    for scene in video.frames:
        for o in scene.objects:
            if (o.kind, o.color) not in changed:
                found.setdefault(f"{o.color} {o.kind}", o)
    return list(found.values())


def _events(video: Video, *names: str) -> list[Event]:
    return [e for e in video.events if e.name in names]


def _first_look(video: Video, event: Event) -> SceneObject:
    """Return an event's object as it was before it changed at all."""
    before = event.before
    same = (o for o in _cast(video) if (o.kind, o.x, o.y) == (before.kind, before.x, before.y))
    return next(same, before)


def ask_direction(video: Video, rng: random.Random) -> Question | None:
    """In which direction does the circle move?"""
    if not (moves := _events(video, "move")):
        return None
    event = rng.choice(moves)
    forms = (
        "In which direction does the {} move?",
        "Which way does the {} move?",
        "Where does the {} move?",
        "In what direction did the {} move?",
        "What direction does the {} move in?",
    )
    return Question("direction", rng.choice(forms).format(_name(video, event.before, rng)), event.value)


_VERBS = {"appear": "appear", "disappear": "disappear", "change": "change its color"}


def ask_when(video: Video, rng: random.Random) -> Question | None:
    """When does the star appear?"""
    events = _events(video, *_VERBS)
    if not events:
        return None
    event = rng.choice(events)
    noun, verb = _name(video, _first_look(video, event), rng), _VERBS[event.name]
    if event.name == "change":
        if len(_events(video, "change")) > 1 or rng.random() < 0.5:
            verb = f"turn {event.value}"
        elif rng.random() < 0.4:
            verb = "change color"
    forms = (
        "When does the {} {}?",
        "In which frame does the {} {}?",
        "When did the {} {}?",
        "At what time does the {} {}?",
    )
    return Question("when", rng.choice(forms).format(noun, verb), f"frame {event.at}")


def ask_what(video: Video, rng: random.Random) -> Question | None:
    """Which object moves? What appears? What happens?"""
    name = rng.choice(("move", "appear", "disappear", "change", "any"))
    if name == "any":
        if len(video.events) != 1:
            return None
        forms: tuple[str, ...] = ("What happens?", "What happens in the video?", "What happened?", "What changes?")
        return Question("what", rng.choice(forms), video.events[0].said)
    events = _events(video, name)
    if len({e.before.kind for e in events}) > 1 or (not events and rng.random() < 0.8):
        return None
    verb = {"move": "moves", "appear": "appears", "disappear": "disappears", "change": "changes its color"}[name]
    forms = (f"What {verb}?", f"Which object {verb}?")
    if not events:
        return Question("what", rng.choice(forms), "nothing")
    o = _first_look(video, events[0])
    if name == "change" and rng.random() < 0.4 and len(events) == 1:
        noun = _name(video, o, rng)
        forms = (f"What color does the {noun} turn?", f"Which color does the {noun} change to?")
        return Question("what", rng.choice(forms), events[0].value)
    return Question("what", rng.choice(forms), f"the {o.color} {o.kind}")


def ask_how_often(video: Video, rng: random.Random) -> Question | None:
    """How often does the square change its color? In how many frames is it visible?"""
    o = rng.choice(_cast(video))
    noun, form = _name(video, o, rng), rng.random()
    if form < 0.5:
        changes = [e for e in _events(video, "change") if _first_look(video, e) == o]
        forms: tuple[str, ...] = (
            f"How often does the {noun} change its color?",
            f"How often did the {noun} change color?",
        )
        return Question("often", rng.choice(forms), TIMES[len(changes)])
    if form < 0.85:
        if any(_first_look(video, e) == o for e in _events(video, "change")):
            return None
        shown = sum(any((p.kind, p.color) == (o.kind, o.color) for p in scene.objects) for scene in video.frames)
        forms = (f"In how many frames is the {noun} visible?", f"How many frames show the {noun}?")
        return Question("often", rng.choice(forms), str(shown))
    forms = ("How many frames are there?", "How many frames does the video have?")
    return Question("often", rng.choice(forms), str(len(video.frames)))


def ask_order(video: Video, rng: random.Random) -> Question | None:
    """Ask for the order of two events: `What happens after the star appears?`."""
    if len(video.events) != 2 or _events(video, "move"):
        return None
    first, second = video.events
    told = [
        f"the {e.before.color} {e.before.kind} {'appears' if e.name == 'appear' else e.said.split(' ', 3)[3]}"
        for e in (first, second)
    ]
    texts = {
        f"What happens after {told[0]}?": second.said,
        f"What happened after {told[0]}?": second.said,
        f"What happens before {told[1]}?": first.said,
        "What happens first?": first.said,
        "What happens last?": second.said,
    }
    text = rng.choice(list(texts))
    return Question("after", text, texts[text])


def _time(video: Video, rng: random.Random) -> tuple[str, Scene]:
    """Draw a moment: its name and its frame."""
    count = len(video.frames)
    at = rng.choice((0, count - 1, rng.randrange(count)))
    names = [f"in frame {at + 1}"]
    if at == 0:
        names += ["in the first frame", "at the start", "at the beginning"]
    if at == count - 1:
        names += ["in the last frame", "at the end"]
    return rng.choice(names), video.frames[at]


def ask_of_frame(video: Video, rng: random.Random) -> Question | None:
    """Ask about one frame: `What color is the square at the end?`."""
    time, scene = _time(video, rng)
    form = rng.random()
    if form < 0.2:
        text = rng.choice((f"How many objects are there {time}?", f"How many objects do you see {time}?"))
        return Question("frame", text, str(len(scene.objects)))
    o = rng.choice(scene.objects)
    if len(matching(scene, o.kind)) != 1 or sum(p.kind == o.kind for p in _cast(video)) != 1:
        return None
    if form < 0.55:
        return Question("frame", f"What color is the {o.kind} {time}?", o.color)
    third = IMAGE_SIZE / 3
    if any(abs(c - line) < 2.5 for c in (o.x, o.y) for line in (third, 2 * third)):
        return None
    return Question("frame", f"Where is the {o.kind} {time}?", REGIONS[o.region])


def ask_whether(video: Video, rng: random.Random) -> Question | None:
    """Ask for yes or no: `Does the circle move?`."""
    wanted = rng.random() < 0.5
    for _ in range(6):
        time, scene = _time(video, rng)
        o = rng.choice(_cast(video))
        noun = _name(video, o, rng)
        of_it = {e.name for e in video.events if _first_look(video, e) == o}
        moves = [e for e in _events(video, "move") if _first_look(video, e) == o]
        direction = rng.choice(list(DIRECTIONS))
        kind = rng.choice((o.kind, rng.choice(scene.world.shapes)))
        claims = [
            (f"Does the {noun} move?", "move" in of_it),
            (f"Does the {noun} disappear?", "disappear" in of_it),
            (f"Does the {noun} change its color?", "change" in of_it),
            ("Does anything move?", bool(_events(video, "move"))),
            ("Does anything appear?", bool(_events(video, "appear"))),
            ("Does anything disappear?", bool(_events(video, "disappear"))),
            ("Does any object change its color?", bool(_events(video, "change"))),
            (f"Is there {with_article(kind)} {time}?", bool(matching(scene, kind))),
            *((f"Does the {noun} move {direction}?", e.value == direction) for e in moves),
        ]
        if fitting := [text for text, truth in claims if truth == wanted]:
            return Question("moving", rng.choice(fitting), "Yes" if wanted else "No")
    return None


_ASKERS: tuple[tuple[Callable[[Video, random.Random], Question | None], float], ...] = (
    (ask_direction, 2.0),
    (ask_when, 2.0),
    (ask_what, 2.0),
    (ask_how_often, 1.2),
    (ask_order, 2.0),
    (ask_of_frame, 2.0),
    (ask_whether, 2.0),
)


def draw_video_question(video: Video, rng: random.Random) -> Question | None:
    """Draw a question about a video; None where it allows none of that form."""
    return rng.choices([a for a, _ in _ASKERS], [w for _, w in _ASKERS])[0](video, rng)
