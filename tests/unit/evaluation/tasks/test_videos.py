"""Questions about moving scenes: their groups, and one context of all frames."""

import json
from pathlib import Path

import torch

from lookonce_evaluation.album_methods import FullPass, VideoContext, video_methods
from lookonce_evaluation.data.videos import held_out_videos
from lookonce_evaluation.joins import ImagesRun
from lookonce_evaluation.tasks import videos
from lookonce_evaluation.tasks.videos import ALL, RETENTIONS, group_questions
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.visuals import Video


def test_videos_have_four_to_eight_frames_and_every_question_is_in_its_groups():
    held = held_out_videos(30)
    assert [len(video.images) for video in held] == [4, 6, 8] * 10
    groups = group_questions(held)
    count = sum(len(video.questions) for video in held)
    for part in groups.values():
        assert sum(len(own) for numbers in part.values() for own in numbers) == count
    assert set(groups["categories"]) == {"after", "direction", "frame", "moving", "often", "what", "when"}
    assert set(groups["frames"]) == {"4 frames", "6 frames", "8 frames"}


def test_a_context_of_all_frames_is_the_whole_prompt_where_everything_is_kept(model, settings):
    (video,) = held_out_videos(1)
    run = ImagesRun(model, video, settings)
    (asked,) = VideoContext("described together", 1.0, "coverage").prepare(run)
    frames = Video(tuple(video.images), (0.0, 1.0, 2.0, 3.0))
    turns = (Turn("user", (0, settings.describe_video_prompt)), Turn("assistant", ()))
    whole = Conversation((*turns, Turn("user", (video.questions[0].text,))))
    expected = model.prefill(model.prompts.full(whole, [frames])).logits[0, -1]
    torch.testing.assert_close(
        model.ask(asked.cache, asked.cache.prompts[0]).logits[0, -1], expected, atol=2e-4, rtol=1e-4
    )
    (few,) = VideoContext("described together", 0.05, "coverage").prepare(run)
    assert few.cache.tokens == few.cache.next_position < asked.cache.tokens / 10


def test_every_selection_is_tried_and_frames_joined():
    names = {method.name for method in video_methods(RETENTIONS, "coverage") if method.retention == 0.06}
    together = "described together"
    others = {f"{together}, {name}" for name in ("attention", "uniform", "random")}
    assert names == {together, "frames joined", *others}


def test_a_small_evaluation_from_end_to_end(monkeypatch, tmp_path: Path):
    methods = [FullPass(), VideoContext("described together", 0.06, "coverage")]
    monkeypatch.setattr(videos, "video_methods", lambda *_: methods)
    videos.main(["--images", "1", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["videos"] == 1
    assert [row["name"] for row in result["rows"]] == ["full pass", "described together"]
    assert result["rows"][1]["groups"][ALL]["questions"] > 3
    assert "rLiVS" in (tmp_path / "table.md").read_text()
    for name in ("categories.md", "frames.md"):
        assert len((tmp_path / name).read_text().splitlines()) == 4
