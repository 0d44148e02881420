"""Scenes laid out as MME is: the same pictures and questions in each of its forms."""

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet

from lookonce_evaluation.data.scenes import Case


def write_folders(root: Path, cases: list[Case]) -> Path:
    """One half of the categories beside each other, the other in folders of their own, as in MME."""
    for category, name, png, asked in _pictures(cases):
        apart = len(category) % 2
        pictures = root / category / ("images" if apart else "")
        texts = root / category / ("questions_answers_YN" if apart else "")
        pictures.mkdir(parents=True, exist_ok=True)
        texts.mkdir(parents=True, exist_ok=True)
        (pictures / f"{name}.png").write_bytes(png)
        (texts / f"{name}.txt").write_text("".join(f"{q.text}\t{q.answer}\n" for q in asked))
    (root / "eval_tool").mkdir()
    (root / "eval_tool" / "readme.txt").write_text("as it comes with MME: no category")
    return root


def write_parquet(root: Path, cases: list[Case]) -> Path:
    """Two rows a picture, in two files of several row groups."""
    rows = [
        {
            "question_id": f"{category}/{name}.png",
            "image": {"bytes": png, "path": f"{name}.png"},
            "question": question.text,
            "answer": question.answer,
            "category": category,
        }
        for category, name, png, asked in _pictures(cases)
        for question in asked
    ]
    (root / "data").mkdir(parents=True)
    half = len(rows) // 2 | 1  # a picture's two rows in two files
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        table = pyarrow.Table.from_pylist(part)
        pyarrow.parquet.write_table(table, root / "data" / f"{name}.parquet", row_group_size=5)
    return root


def _pictures(cases: list[Case]):
    for case in cases:
        file = io.BytesIO()
        case.image.save(file, "png")
        for category, asked in case.pairs.items():
            yield category, case.name, file.getvalue(), asked
