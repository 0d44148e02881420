"""MME's files (Fu et al., arXiv 2306.13394), in both forms that they are given out in.

Folders, one a category: `color/0001.jpg` beside `color/0001.txt`, or the pictures in `images/` and the texts in
`questions_answers_YN/`; a text has two lines of a question, a tab, and Yes or No. Or Parquet files with the columns
question_id, image, question, answer and category, two rows a picture.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.pictures import is_picture
from lookonce_scenes.questions import Question
from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import ImageLimits, decode_image

PERCEPTION = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_COLUMNS = ("question_id", "question", "answer", "category")


class Entry(NamedTuple):
    """One picture and its two questions; the picture is read when it is wanted."""

    name: str  # "color/0001.jpg", as the hub's question_id
    pairs: dict[str, tuple[Question, Question]]  # one category
    read: Callable[[], bytes]
    open: dict[str, Question]  # none; see `Case`

    def case(self, limits: ImageLimits) -> Case:
        """The picture decoded.

        Raises:
            EvaluationError: it cannot be, or is beyond the limits.
        """
        try:
            return Case(self.name, decode_image(self.read(), limits, self.name), self.pairs, {})
        except InvalidImageError as error:
            raise EvaluationError(f"{self.name}: {error}") from None


def read_mme(root: Path) -> list[Entry]:
    """All entries, category by category or as the Parquet files have them.

    Raises:
        EvaluationError: the folder is neither form, a picture has no two questions, or an answer is neither yes nor no.
    """
    files = sorted(root.rglob("*.parquet"))
    entries = list(_of_parquet(files) if files else _of_folders(root))
    if not entries:
        raise EvaluationError(
            f"--data {root}: expected a folder a category with pictures in it, as {root / 'color'}, or .parquet files"
        )
    return entries


def spread(entries: Sequence[Entry], count: int) -> list[Entry]:
    """At most `count` entries, as many of each category as of another, in the order they came in."""
    seen: Counter[str] = Counter()
    turns = []
    for place, entry in enumerate(entries):
        (category,) = entry.pairs
        turns.append((seen[category], place))
        seen[category] += 1
    return [entries[place] for place in sorted(place for _, place in sorted(turns)[:count])]


def _of_folders(root: Path) -> Iterator[Entry]:
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        for picture in sorted(path for path in (*folder.glob("*"), *folder.glob("images/*")) if is_picture(path)):
            texts = folder / "questions_answers_YN" if picture.parent.name == "images" else folder
            asked = _asked(texts / f"{picture.stem}.txt", picture, folder.name)
            yield _entry(f"{folder.name}/{picture.name}", asked, picture.read_bytes)


def _asked(file: Path, picture: Path, category: str) -> list[Question]:
    if not file.exists():
        raise EvaluationError(f"{picture}: it has no questions; expected them in {file}")
    asked = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if line.strip():
            question, _, answer = line.strip().rpartition("\t")
            asked.append(_question(category, question, answer, f"{file}, line {number}"))
    return asked


def _question(category: str, question: str, answer: str, where: str) -> Question:
    known = answer.strip().capitalize()
    if known not in ("Yes", "No") or not question.strip():
        raise EvaluationError(f"{where}: expected a question and the answer Yes or No, not {question!r} and {answer!r}")
    return Question(category, question.strip(), known)


def _entry(name: str, asked: list[Question], read: Callable[[], bytes]) -> Entry:
    if len(asked) != 2:
        raise EvaluationError(f"{name}: expected two questions, found {len(asked)}")
    first, second = sorted(asked, key=lambda question: question.answer == "No")
    return Entry(name, {first.category: (first, second)}, read, {})


def _of_parquet(files: list[Path]) -> Iterator[Entry]:
    asked: dict[str, list[Question]] = {}
    where: dict[str, tuple[Path, int, int]] = {}
    for file, group, place, row in _rows(files):
        name = row["question_id"]
        told = f"{file}, question_id {name}"
        asked.setdefault(name, []).append(_question(row["category"], row["question"], row["answer"], told))
        where.setdefault(name, (file, group, place))
    for name, questions in asked.items():
        yield _entry(name, questions, partial(_picture, *where[name]))


def _rows(files: list[Path]) -> Iterator[tuple[Path, int, int, dict[str, str]]]:
    """File, row group, place in it, and what is asked, of each row."""
    for file in files:
        opened = _opened(file)
        if missing := {*_COLUMNS, "image"} - {*opened.schema_arrow.names}:
            raise EvaluationError(f"{file}: it has no column {sorted(missing)[0]!r}")
        for group in range(opened.num_row_groups):
            for place, row in enumerate(opened.read_row_group(group, columns=list(_COLUMNS)).to_pylist()):
                yield file, group, place, row


def _picture(file: Path, group: int, place: int) -> bytes:
    image = _pictures(file, group)[place].as_py()
    data: bytes = image["bytes"]
    return data


@lru_cache(maxsize=1)
def _pictures(file: Path, group: int) -> Any:
    """A row group's column of pictures; neighbours are asked for in turn."""
    return _opened(file).read_row_group(group, columns=["image"])["image"]


def _opened(file: Path) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise EvaluationError(f"{file}: no Parquet file ({error})") from None
