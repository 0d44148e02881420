"""The judges of descriptions, and their verdicts.

After Kaduri et al., arXiv 2411.17491: the original description is the truth, and an altered one is held to it. Objects
are listed from both and matched, by a language model or, for scenes, by rules; F1 is counted.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.metrics.bootstrap import Estimate, mean_change
from lookonce_evaluation.metrics.captions import Score, mentions

COLUMNS = ("TP", "FN", "FP", "precision", "recall", "F1")
RULES = "rules"
KEY = "OPENAI_API_KEY"
_JUDGE = (
    "'rules', which read the scenes' words only, or the base URL of an OpenAI-compatible endpoint, such as"
    " http://127.0.0.1:8000/v1 [%(default)s]"
)


class Match(NamedTuple):
    """Two mentions of one object, as indices of the two lists."""

    original: int
    altered: int


class Judge(Protocol):
    """List the objects of descriptions, and match two lists."""

    identity: dict[str, Any]  # JSON: what its verdicts depend on; no key is in it
    refused: list[str]  # options that its endpoint did not take

    def objects(self, description: str) -> list[str]:
        """List the objects named, each once, in words."""
        ...

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """Pair the same objects; no object of either list is in two pairs."""
        ...


def one_to_one(pairs: Sequence[Match]) -> list[Match]:
    """Leave out pairs that share an object with an earlier one."""
    matches: list[Match] = []
    for pair in pairs:
        if all(pair.original != m.original and pair.altered != m.altered for m in matches):
            matches.append(pair)
    return sorted(matches)


def compare(judge: Judge, original: Sequence[str], altered: Sequence[str]) -> Score:
    """Judge lists of objects: of two descriptions, or of a description and the truth."""
    tp = len(judge.match(original, altered))
    return Score(tp, len(altered) - tp, len(original) - tp)


def score(judge: Judge, original: str, altered: str) -> Score:
    """Judge an altered description by its original."""
    return compare(judge, judge.objects(original), judge.objects(altered))


def verdict(judge: Judge, text: str, original: Sequence[str], there: Sequence[str] | None) -> dict[str, Any]:
    """Judge an altered description, as a record."""
    objects = judge.objects(text)
    against_scene = None if there is None else compare(judge, there, objects)
    counts = compare(judge, original, objects)
    return {"text": text, "objects": objects, "counts": counts, "against_scene": against_scene}


class Summary(NamedTuple):
    """The scores of many images: means in percent, and sums."""

    images: int
    counts: Score  # summed
    precision: float
    recall: float
    f1: Estimate

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "Summary":
        """Put the scores of one image or more together."""
        images, counts = len(scores), Score(*(sum(column) for column in zip(*scores, strict=True)))
        precision = 100 * sum(s.precision for s in scores) / images
        recall = 100 * sum(s.recall for s in scores) / images
        return cls(images, counts, precision, recall, mean_change([s.f1 for s in scores], [0.0] * images))

    @property
    def cells(self) -> list[str]:
        """The cells of COLUMNS."""
        c = self.counts
        return [str(c.tp), str(c.fn), str(c.fp), f"{self.precision:.1f}", f"{self.recall:.1f}", self.f1.shown(1)]

    def as_json(self) -> dict[str, Any]:
        """Write it for a file."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1.value}
        rounded = {name: round(value, 2) for name, value in shares.items()}
        return {"images": self.images, **self.counts._asdict(), **rounded, "f1_95": [round(v, 2) for v in self.f1[1:]]}


class RuleJudge:
    """Judge by the scenes' words, see `captions.mentions`.

    Two mentions match when the kinds are equal and the colours do not differ: no two objects of a scene have the same
    kind and colour. A colour that is left out fits any. Sizes and places are details, and do not count.
    """

    def __init__(self, *, ignore_colors: bool = False) -> None:
        self._ignore_colors = ignore_colors
        self.identity = {"judge": RULES, "ignore_colors": ignore_colors}
        self.refused: list[str] = []

    def objects(self, description: str) -> list[str]:
        """List phrases such as "large purple star", in the order of the text."""
        return list(dict.fromkeys(map(str, mentions(description))))

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """Make as many pairs as possible, those with both colours first."""
        pairs = [
            (bool(a.color) + bool(b.color), Match(i, j))
            for i, ours in enumerate(original)
            for j, theirs in enumerate(altered)
            for a in mentions(ours)
            for b in mentions(theirs)
            if a.kind == b.kind and (self._ignore_colors or a.color == b.color or not (a.color and b.color))
        ]
        return one_to_one([pair for _, pair in sorted(pairs, key=lambda ranked: -ranked[0])])


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Add `--judge` and its options."""
    add = parser.add_argument
    add("--judge", default=RULES, metavar="rules|URL", help=_JUDGE)
    add("--judge-model", metavar="NAME", help="the model's name at that endpoint")
    add("--api-key-env", metavar="VARIABLE", help=f"environment variable that holds the endpoint's key [{KEY}]")
    text = "things of different colours may be the same object, as in the paper"
    add("--ignore-colors", action="store_true", help=text)


def judge_of(options: argparse.Namespace) -> Judge:
    """Make the judge of a command line.

    Raises:
        EvaluationError: it names none, one that cannot judge this, or the key is missing.
    """
    if options.judge == RULES:
        if options.images_folder:
            raise EvaluationError(
                "--judge rules: they read the scenes' words only; a folder's pictures need --judge URL"
            )
        return RuleJudge(ignore_colors=options.ignore_colors)
    url = _base_url(options.judge)
    if not options.judge_model:
        raise EvaluationError(f"--judge-model: expected the name of a model that {url} serves")
    from lookonce_evaluation.tasks.judge.llm import LLMJudge  # imports openai

    return LLMJudge(url, options.judge_model, _key(options.api_key_env), ignore_colors=options.ignore_colors)


def _base_url(text: str) -> str:
    """Check a base URL, and that it may be recorded and shown."""
    try:
        parts = urlsplit(text)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that are none
        is_http = False
    if not is_http or "@" in parts.netloc or parts.query:
        shown = repr(text) if "@" not in text and "?" not in text else "a URL with a user or a query in it"
        raise EvaluationError(
            f"--judge {shown}: expected 'rules' or a base URL such as http://127.0.0.1:8000/v1; keys go into an"
            " environment variable, see --api-key-env"
        )
    return text.rstrip("/")


def _key(variable: str | None) -> str | None:
    key = os.environ.get(variable or KEY, "").strip()
    if variable and not key:
        raise EvaluationError(f"--api-key-env {variable}: the environment has no such variable, or it is empty")
    if not (key.isascii() and key.isprintable()):
        raise EvaluationError(f"--api-key-env {variable or KEY}: the variable holds no key that could be sent")
    return key or None
