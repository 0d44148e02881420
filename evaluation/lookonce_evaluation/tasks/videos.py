"""Questions about moving scenes, from contexts of their frames: `lookonce eval videos`.

Videos of four to eight frames, drawn from held-out seeds, with questions such as when something appears, how often a
colour changes and what happened after. Every way answers the same questions: the full pass of all frames; one context
of all frames, described together, by every selection; and contexts of each frame alone, joined. An answer is right when
it is exactly the expected one, so the checkpoint has to know moving scenes.
"""

from collections.abc import Sequence

from lookonce_evaluation.album_methods import as_json, video_methods
from lookonce_evaluation.data.image_set import ImageSet
from lookonce_evaluation.data.videos import held_out_videos
from lookonce_evaluation.metrics.groups import Groups, group_table, percent_table, record, rows_of
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import context_options, parser, settings_of
from lookonce_evaluation.runs import Run

RETENTIONS = (0.2, 0.1, 0.06, 0.05, 0.02)
DETAILED = (None, 1.0, 0.06, 0.05)
"""Retentions of the rows that are shown by category."""
ALL = "all questions"
PUBLISHED = "rLiVS (arXiv 2510.17364), on published models and videos: 98% of full accuracy at 6% of the tokens."


def group_questions(videos: Sequence[ImageSet]) -> dict[str, Groups]:
    """Group the questions: all, by category, and by number of frames."""
    every = [[*range(len(video.questions))] for video in videos]
    categories = sorted({question.category for video in videos for question in video.questions})
    frames = sorted({len(video.images) for video in videos})
    return {
        "all": {ALL: every},
        "categories": {
            name: [[i for i in own if v.questions[i].category == name] for v, own in zip(videos, every, strict=True)]
            for name in categories
        },
        "frames": {
            f"{count} frames": [own if len(v.images) == count else [] for v, own in zip(videos, every, strict=True)]
            for count in frames
        },
    }


def main(arguments: list[str]) -> None:
    """Run the command."""
    options = context_options(parser("eval videos", __doc__, images=200), RETENTIONS).parse_args(arguments)
    settings = settings_of(options)
    model = EvalModel.load(options.model, settings, options.device)
    compared = video_methods(options.retentions, settings.selection)
    window = model.window(settings.window)
    config = {
        "command": "eval videos",
        "model": model.fingerprint,
        "prompts": [settings.describe_video_prompt, model.describe_prompt],
        "window": [window.start, window.stop],
        "rows": settings.rows,
    }
    run = Run(options.out, {**config, "methods": as_json(compared)})
    videos = held_out_videos(options.images)
    records = run.over(videos, lambda video: record(model, video, compared, settings))
    groups = group_questions(videos)
    rows = rows_of(compared, records, {name: own for part in groups.values() for name, own in part.items()})
    detailed = [row for row in rows if row.retention in DETAILED]
    run.write("table.md", f"{group_table(rows, [ALL])}\n\n{PUBLISHED}")
    run.write("categories.md", percent_table(detailed, [*groups["categories"]]))
    run.write("frames.md", percent_table(detailed, [*groups["frames"]]))
    run.write_json("result.json", config | {"videos": len(videos), "rows": [row.as_json() for row in rows]})
    print(group_table(rows, [ALL]))
