"""Questions about several pictures, and about moving ones, have the one right answer that is given."""

import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from lookonce_scenes.album import ORDINALS, draw_album_question, sample_album, sample_scenes
from lookonce_scenes.train import FIRST_TRAINING_SEED
from lookonce_scenes.video import sample_video
from lookonce_scenes.world import NARROW, WIDE, render

from .album_oracle import answer_about_one, answer_across, answer_of_video, events_of, tracks
from .oracle import answer_to

HELD_OUT = 550_000_000


@pytest.mark.parametrize("count", [2, 3, 4])
def test_questions_about_albums_are_answered_right(count):
    kinds: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = {"which": Counter(), "same": Counter(), "total": Counter()}
    for seed in range(HELD_OUT, HELD_OUT + 150):
        album = sample_album(seed, count, world=WIDE if seed % 2 else NARROW)
        assert len(album.scenes) == count
        assert len({q.text for q in album.questions}) == len(album.questions) == 12
        for question in album.questions:
            about_one = question.category.startswith("one ")
            answer = (answer_about_one if about_one else answer_across)(album.scenes, question.text)
            assert answer == question.answer, (seed, question)
            kinds["one" if about_one else question.category] += 1
            if not about_one:
                answers[question.category][question.answer] += 1
    assert kinds["one"] > 0.35 * kinds.total()
    assert all(kinds[kind] > 0.08 * kinds.total() for kind in ("which", "same", "total"))
    assert set(ORDINALS[:count]) | {"both" if count == 2 else "all", "none"} == set(answers["which"])
    assert 0.7 < answers["same"]["Yes"] / answers["same"]["No"] < 1.4


def test_albums_are_deterministic_and_held_out_ones_stay_below_the_trainings_seeds():
    assert sample_album(HELD_OUT, 3) == sample_album(HELD_OUT, 3)
    assert sample_album(HELD_OUT, 2) != sample_album(HELD_OUT + 1, 2)
    assert all(s.seed < FIRST_TRAINING_SEED for s in sample_scenes(HELD_OUT + 50_000_000, 16))


def test_later_pictures_often_show_what_the_first_one_shows():
    shared = 0
    for seed in range(200):
        first, second = sample_scenes(seed, 2, WIDE)
        shared += bool({(o.kind, o.color) for o in first.objects} & {(o.kind, o.color) for o in second.objects})
    assert 0.3 < shared / 200 < 0.8


def test_one_picture_is_asked_about_as_alone():
    (scene,) = sample_scenes(5, 1)
    question = next(q for s in range(99) if (q := draw_album_question([scene], random.Random(s))))
    assert answer_to(scene, question.text) == question.answer


# --- moving scenes ---------------------------------------------------------------------------------------------------


VIDEOS = [sample_video(HELD_OUT + i, 4 + i % 5, questions=12) for i in range(250)]


def test_videos_are_deterministic_and_of_the_length_asked_for():
    assert sample_video(7, 4) == sample_video(7, 4)
    for i, video in enumerate(VIDEOS):
        assert len(video.frames) == 4 + i % 5
        assert 1 <= len(video.events) <= 2 or {e.name for e in video.events} >= {"change"}


def test_what_happens_is_what_the_frames_show():
    names = Counter()
    for video in VIDEOS:
        shown = events_of(video)
        assert [(e.at, e.name) for e in video.events] == [(t, name) for t, name, _, _ in shown]
        names.update(e.name for e in video.events)
        told = [video.frames[0].caption]
        for t, name, thing, value in shown:
            color, kind = thing.split()
            if name == "change":  # by the colour that it had just before
                track = tracks(video)[thing]
                color = track[t - 2].color
            told.append(
                {
                    "move": f"The {color} {kind} moves {value}.",
                    "appear": f"A{value[1:]}".replace(" at the ", " appears at the ") + f" in frame {t}.",
                    "disappear": f"The {color} {kind} disappears in frame {t}.",
                    "change": f"The {color} {kind} turns {value} in frame {t}.",
                }[name]
            )
        assert video.caption == " ".join(told)
    assert all(names[name] > 20 for name in ("move", "appear", "disappear", "change"))


def test_every_frame_is_sound_and_only_what_happens_changes():
    for video in VIDEOS[:60]:
        for scene in video.frames:
            assert scene.objects
            for i, o in enumerate(scene.objects):
                for other in scene.objects[:i]:
                    assert max(abs(o.x - other.x), abs(o.y - other.y)) >= o.radius + other.radius
        assert len({scene.style for scene in video.frames}) == 1
        changed = [np.abs(render(a).astype(int) - render(b)).max() > 20 for a, b in pairwise(video.frames)]
        expected = [any(e.at == t or e.name == "move" for e in video.events) for t in range(2, len(video.frames) + 1)]
        assert changed == expected


def test_questions_about_videos_are_answered_right():
    asked = Counter()
    for video in VIDEOS:
        for question in video.questions:
            answer = answer_of_video(video, question.text)
            assert answer == question.answer, (question, video.caption)
            asked[question.category] += 1
    assert set(asked) == {"direction", "when", "what", "often", "after", "frame", "moving"}
    yes = Counter(q.answer for v in VIDEOS for q in v.questions if q.category == "moving")
    assert 0.7 < yes["Yes"] / yes["No"] < 1.4


DRAW = """
import os
import random
import subprocess
import sys
from lookonce_scenes.album import sample_album
from lookonce_scenes.phrasings import draw_question
from lookonce_scenes.questions import YES_NO, yes_no_pair
from lookonce_scenes.video import sample_video
from lookonce_scenes.world import WIDE, sample_scene

for seed in range(60):
    scene, rng = sample_scene(seed, world=WIDE), random.Random(seed)
    print([draw_question(scene, rng) for _ in range(8)], [yes_no_pair(scene, name, rng) for name in YES_NO])
    print(sample_album(seed, 3), sample_video(seed, 5))
"""


def test_every_process_draws_the_same():
    """A training that goes on, and a measurement on another day, must see what the first process would have seen."""
    drawn = [
        subprocess.run(
            [sys.executable, "-c", DRAW],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert drawn[0] == drawn[1] != ""
