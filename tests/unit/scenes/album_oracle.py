"""Answers questions about several pictures and about videos from the objects and the question's words alone."""

import re
from collections.abc import Callable
from itertools import pairwise

from lookonce_scenes.album import ORDINALS
from lookonce_scenes.video import TIMES, Video
from lookonce_scenes.world import Scene, SceneObject

from .oracle import answer_to, place, said, those

Scenes = tuple[Scene, ...]
Event = tuple[int, str, str, str]  # frame, what happens, to what, with which value
_IMAGE = rf"(?:the (?:{'|'.join(ORDINALS)}|last) (?:image|picture)|image \d)"
_WHICH = r"(?:which|in which) (?:image|picture|one|of the images) ?(?:has|shows|contains|is there|do you see|are there)"


def number_of(name: str, count: int) -> int:
    """Which picture a name means, from 0."""
    word = name.removeprefix("the ").split()[0]
    return count - 1 if word == "last" else ORDINALS.index(word) if word in ORDINALS else int(name.split()[-1]) - 1


def answer_about_one(scenes: Scenes, text: str) -> str:
    """Take the picture's name out of the question, and answer what is left about that picture."""
    lower = text.lower()
    (name,) = re.findall(_IMAGE, lower)
    scene = scenes[number_of(name, len(scenes))]
    if lower.startswith("describe "):
        return scene.caption
    left = re.sub(rf"^in {_IMAGE}, |^{_IMAGE}: |(?<! are)(?<! is)(?<! half of) in {_IMAGE}(?=[?.]$)", "", lower)
    return answer_to(scene, re.sub(_IMAGE, "the image", left))


def answer_across(scenes: Scenes, text: str) -> str:
    """Answer a question about which picture, or about all."""
    return _match(_ALBUM_FORMS, text, scenes)


def answer_of_video(video: Video, text: str) -> str:
    """Answer a question about a video, from its frames."""
    return _match(_VIDEO_FORMS, text, Watched(video))


def _match(forms: list[tuple[str, Callable[..., str]]], text: str, subject: object) -> str:
    typed = text.lower().rstrip("?")
    for pattern, answer in forms:
        if found := re.fullmatch(pattern, typed):
            return answer(subject, *(group for group in found.groups() if group is not None))
    raise AssertionError(f"no form fits {text!r}")


def _yes(truth: object) -> str:
    return "Yes" if truth else "No"


def _counts(scenes: Scenes, noun: str) -> list[int]:
    return [len(those(scene, noun)) for scene in scenes]


def _at(scenes: Scenes, name: str) -> Scene:
    return scenes[number_of(name, len(scenes))]


def _has_most(scenes: Scenes, degree: str, noun: str) -> str:
    numbers = _counts(scenes, noun)
    best = max(numbers) if degree in ("more", "the most") else min(numbers)
    assert numbers.count(best) == 1
    return ORDINALS[numbers.index(best)]


def _which(scenes: Scenes, noun: str) -> str:
    shown = [i for i, n in enumerate(_counts(scenes, noun)) if n]
    assert len(shown) in (0, 1, len(scenes))
    if len(shown) == 1:
        return ORDINALS[shown[0]]
    return "none" if not shown else "both" if len(scenes) == 2 else "all"


def _same_number(scenes: Scenes, how: str) -> str:
    return _yes((len({len(s.objects) for s in scenes}) == 1) == (how == "same"))


def _compare(scenes: Scenes, how: str, one: str, other: str) -> str:
    first, second = (len(_at(scenes, name).objects) for name in (one, other))
    return _yes(first < second if how == "fewer" else first > second)


def _compare_in(scenes: Scenes, kind: str, attribute: str, one: str, other: str, *, same: bool) -> str:
    (first,), (second,) = (those(_at(scenes, name), kind) for name in (one, other))
    return _yes((getattr(first, attribute) == getattr(second, attribute)) == same)


def _difference(scenes: Scenes, noun: str, one: str, other: str) -> str:
    first, second = (len(those(_at(scenes, name), noun)) for name in (one, other))
    assert first > second
    return str(first - second)


def _common(scenes: Scenes, what: str) -> str:
    attribute = {"shape": "kind", "color": "color"}[what]
    (common,) = set.intersection(*({getattr(o, attribute) for o in s.objects} for s in scenes))
    return str(common)


_ALBUM_FORMS: list[tuple[str, Callable[..., str]]] = [
    (rf"{_WHICH} (more|fewer|the most|the fewest) (.+)s", _has_most),
    (rf"{_WHICH} an? (.+)", _which),
    (r"do (?:both|all) images (?:show|have) an? (.+)|is there an? (.+) in (?:both|all) images",
     lambda s, noun: _yes(all(_counts(s, noun)))),
    (r"does any image show an? (.+)|is there an? (.+) in any image", lambda s, noun: _yes(any(_counts(s, noun)))),
    (r"is there no (.+) in any image", lambda s, noun: _yes(not any(_counts(s, noun)))),
    (r"do the images (?:show|have) (?:the|a) (same|different) number of objects", _same_number),
    (rf"are there (more|fewer) objects in ({_IMAGE}) than in ({_IMAGE})", _compare),
    (rf"does ({_IMAGE}) have more objects than ({_IMAGE})", lambda s, a, b: _compare(s, "more", a, b)),
    (rf"is the (\S+) in ({_IMAGE}) the same (color|size) as the \S+ in ({_IMAGE})",
     lambda s, kind, a, what, b: _compare_in(s, kind, what, a, b, same=True)),
    (rf"does the (\S+) in ({_IMAGE}) have the same (color|size) as in ({_IMAGE})",
     lambda s, kind, a, what, b: _compare_in(s, kind, what, a, b, same=True)),
    (rf"does the (\S+) have a different (color|size) in ({_IMAGE}) and in ({_IMAGE})",
     lambda s, kind, what, a, b: _compare_in(s, kind, what, a, b, same=False)),
    (r"how many images (?:show|have) an? (.+)", lambda s, noun: str(sum(n > 0 for n in _counts(s, noun)))),
    (r"how many (?:images|pictures) (?:are there|do you see)", lambda s: str(len(s))),
    (rf"how many more (.+)s are in ({_IMAGE}) than in ({_IMAGE})", _difference),
    (r"how many (.+)s are (?:there in total|there in all images|in \w+ images together|there altogether)",
     lambda s, noun: str(sum(_counts(s, noun)))),
    (r"(?:which|what) (shape|color) (?:is in|do) (?:both|all) images(?: have)?", _common),
]  # fmt: skip


# --- moving scenes ---------------------------------------------------------------------------------------------------


def tracks(video: Video) -> dict[str, list[SceneObject | None]]:
    """Each object through the frames, by its first look; None where it is not there."""
    result: dict[str, list[SceneObject | None]] = {}
    for t, scene in enumerate(video.frames):
        for o in scene.objects:
            last = [name for name, track in result.items() if _goes_on(track[-1], o)]
            name = last[0] if last else f"{o.color} {o.kind}"
            result.setdefault(name, [None] * t).append(o)
        for track in result.values():
            track += [None] * (t + 1 - len(track))
    return result


def _goes_on(before: SceneObject | None, o: SceneObject) -> bool:
    if before is None or before.kind != o.kind or before.radius != o.radius:
        return False
    is_moved = (before.x, before.y) != (o.x, o.y)
    return before.color == o.color or not is_moved


def events_of(video: Video) -> list[Event]:
    """What happens, told from the frames alone: (frame, what, to what, with which value)."""
    events = []
    for name, track in tracks(video).items():
        for t, (before, after) in enumerate(pairwise(track), 2):
            if before is None and after is not None:
                events.append((t, "appear", name, f"{said(after)}"))
            elif before is not None and after is None:
                events.append((t, "disappear", name, ""))
            elif before is not None and before.color != after.color:
                events.append((t, "change", name, after.color))
        if track[0] is not None and track[-1] is not None:
            dx, dy = track[-1].x - track[0].x, track[-1].y - track[0].y
            if abs(dx) + abs(dy) > 1:
                way = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
                events.append((1, "move", name, way))
    return sorted(events)


class Watched:
    """A video as it is seen: what happens, and each object's way through the frames."""

    def __init__(self, video: Video) -> None:
        self.frames = video.frames
        self.events = events_of(video)
        self.tracks = tracks(video)
        self.said = [e.said for e in sorted(video.events, key=lambda e: e.at)]

    def name(self, noun: str) -> str:
        """The one object that a noun names."""
        (name,) = [n for n in self.tracks if n.endswith(f" {noun}") or n == noun]
        return name

    def of(self, noun: str, what: str) -> list[Event]:
        """What of that kind happens to it."""
        return [e for e in self.events if e[1] == what and e[2] == self.name(noun)]

    def frame(self, time: str) -> Scene:
        """The frame at a named time."""
        if time in ("first frame", "start", "beginning"):
            return self.frames[0]
        return self.frames[-1 if time in ("last frame", "end") else int(time.split()[-1]) - 1]

    def color_or_place(self, what: str, noun: str, time: str) -> str:
        """What an object looks like, or where it is, at a time."""
        (o,) = those(self.frame(time), noun)
        return o.color if what == "what color" else place(o)

    def when(self, noun: str, verb: str, value: str = "") -> str:
        """The frame in which it happens."""
        events = self.of(noun, {"turn": "change"}.get(verb, verb))
        (at,) = [t for t, _, _, to in events if verb != "turn" or to == value.strip()]
        return f"frame {at}"

    def which(self, verb: str) -> str:
        """The one to which it happens."""
        names = {name for _, what, name, _ in self.events if what == verb}
        return f"the {names.pop()}" if names else "nothing"


_TIME = r"(?:in|at) (?:the )?((?:first|last) frame|frame \d|start|beginning|end)"
_VIDEO_FORMS: list[tuple[str, Callable[..., str]]] = [
    (r"(?:in which|which|in what|what|where)(?: direction| way)? (?:does|did) the (.+) move(?: in)?",
     lambda w, noun: w.of(noun, "move")[0][3]),
    (r"does the (.+) move (left|right|up|down)", lambda w, noun, way: _yes(w.of(noun, "move")[0][3] == way)),
    (r"does the (.+) (move|disappear|change)(?: its color)?", lambda w, noun, what: _yes(w.of(noun, what))),
    (r"does any(?:thing| object) (move|appear|disappear|change)(?: its color)?",
     lambda w, what: _yes(any(e[1] == what for e in w.events))),
    (rf"is there an? (.+) {_TIME}", lambda w, noun, time: _yes(those(w.frame(time), noun))),
    (r"(?:when|in which frame|at what time) (?:does|did) the (.+?) (appear|disappear|change|turn)( .+)?", Watched.when),
    (r"how often (?:does|did) the (.+) change (?:its )?color", lambda w, noun: TIMES[len(w.of(noun, "change"))]),
    (r"in how many frames is the (.+) visible|how many frames show the (.+)",
     lambda w, noun: str(sum(o is not None for o in w.tracks[w.name(noun)]))),
    (r"how many frames (?:are there|does the video have)", lambda w: str(len(w.frames))),
    (rf"how many objects (?:are there|do you see) {_TIME}", lambda w, time: str(len(w.frame(time).objects))),
    (rf"(what color|where) is the (.+?) {_TIME}", Watched.color_or_place),
    (r"(?:what|which) color does the (.+) (?:turn|change to)", lambda w, noun: w.of(noun, "change")[0][3]),
    (r"what (?:happens|happens in the video|happened|changes|happens first)|what (?:happens|happened) before .+",
     lambda w: w.said[0]),
    (r"what happens last|what (?:happens|happened) after .+", lambda w: w.said[-1]),
    (r"(?:what|which object) (move|appear|disappear|change)s(?: its color)?", Watched.which),
]  # fmt: skip
