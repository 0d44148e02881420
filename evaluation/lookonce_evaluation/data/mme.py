"""MME's files (Fu et al., arXiv 2306.13394), in both of their forms.

Folders, one a category: `color/0001.jpg` beside `color/0001.txt`, or the pictures in `images/` and the texts in
`questions_answers_YN/`; a text has two lines of a question, a tab, and Yes or No. Or Parquet files with the columns
question_id, image, question, answer and category, two rows a picture.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from lookonce_evaluation.data.folder import decode, is_picture
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes.questions import Question
from lookonce_server.images.decode import ImageLimits

PERCEPTION = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_COLUMNS = ["question_id", "question", "answer", "category"]


class Entry(NamedTuple):
    """One picture and its two questions; the picture is read when it is needed."""

    name: str  # "color/0001.jpg", as the hub's question_id
    pairs: dict[str, tuple[Question, Question]]  # one category
    read: Callable[[], bytes]
    open: dict[str, Question]  # none; see `Case`

    def case(self, limits: ImageLimits) -> Case:
        """Decode the picture; EvaluationError where it cannot be, or is beyond the limits."""
        return Case(self.name, decode(self.name, self.read(), limits), self.pairs, {})


def read_mme(root: Path) -> list[Entry]:
    """Read all entries, category by category or as the Parquet files have them.

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
    """Take at most `count` entries, evenly by category, in their order."""
    seen: Counter[str] = Counter()
    turns = []
    for place, entry in enumerate(entries):
        (category,) = entry.pairs
        turns.append((seen[category], place))
        seen[category] += 1
    return [entries[place] for place in sorted(place for _, place in sorted(turns)[:count])]


def _entry(name: str, questions: list[Question], read: Callable[[], bytes]) -> Entry:
    if len(questions) != 2:
        raise EvaluationError(f"{name}: expected two questions, found {len(questions)}")
    first, second = sorted(questions, key=lambda question: question.answer == "No")
    return Entry(name, {first.category: (first, second)}, read, {})


def _question(category: str, question: str, answer: str, where: str) -> Question:
    verdict = answer.strip().capitalize()
    if verdict not in ("Yes", "No") or not question.strip():
        raise EvaluationError(f"{where}: expected a question and the answer Yes or No, not {question!r} and {answer!r}")
    return Question(category, question.strip(), verdict)


def _of_folders(root: Path) -> Iterator[Entry]:
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        for picture in sorted(path for path in (*folder.glob("*"), *folder.glob("images/*")) if is_picture(path)):
            texts = folder / "questions_answers_YN" if picture.parent.name == "images" else folder
            questions = _questions(texts / f"{picture.stem}.txt", picture, folder.name)
            yield _entry(f"{folder.name}/{picture.name}", questions, picture.read_bytes)


def _questions(file: Path, picture: Path, category: str) -> list[Question]:
    if not file.exists():
        raise EvaluationError(f"{picture}: it has no questions; expected them in {file}")
    lines = enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1)
    parts = [(number, *line.strip().rpartition("\t")) for number, line in lines if line.strip()]
    return [_question(category, question, answer, f"{file}, line {n}") for n, question, _, answer in parts]


def _of_parquet(files: list[Path]) -> Iterator[Entry]:
    questions: dict[str, list[Question]] = {}
    places: dict[str, tuple[Path, int, int]] = {}
    for file in files:
        for group, place, row in _rows(file):
            name = row["question_id"]
            question = _question(row["category"], row["question"], row["answer"], f"{file}, question_id {name}")
            questions.setdefault(name, []).append(question)
            places.setdefault(name, (file, group, place))
    for name, pair in questions.items():
        yield _entry(name, pair, partial(_picture, *places[name]))


def _rows(file: Path) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Each row's group, its place there, and what is asked."""
    parquet = _open(file)
    if missing := {*_COLUMNS, "image"} - {*parquet.schema_arrow.names}:
        raise EvaluationError(f"{file}: it has no column {sorted(missing)[0]!r}")
    for group in range(parquet.num_row_groups):
        for place, row in enumerate(parquet.read_row_group(group, columns=_COLUMNS).to_pylist()):
            yield group, place, row


def _picture(file: Path, group: int, place: int) -> bytes:
    data: bytes = _pictures(file, group)[place].as_py()["bytes"]
    return data


@lru_cache(maxsize=1)
def _pictures(file: Path, group: int) -> Any:
    """Read a row group's column of pictures; neighbours follow in turn."""
    return _open(file).read_row_group(group, columns=["image"])["image"]


def _open(file: Path) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise EvaluationError(f"{file}: no Parquet file ({error})") from None
