"""Who judges: what the command lines of the commands that judge have in common."""

import argparse
import hashlib
import os
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.judge import wording
from lookonce_evaluation.judge.protocol import Judge
from lookonce_evaluation.judge.rules import RuleJudge

RULES = "rules"
KEY = "OPENAI_API_KEY"


class Chosen(NamedTuple):
    """A judge, and what its verdicts depend on."""

    judge: Judge
    asked: dict[str, Any]  # for `Run`; the key is not in it

    @property
    def told(self) -> dict[str, Any]:
        """For result.json: the same, and the options that its endpoint did not take."""
        return {**self.asked, "judge_refused": list(getattr(self.judge, "refused", []))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command line say who judges."""
    parser.add_argument(
        "--judge",
        default=RULES,
        metavar="rules|URL",
        help="'rules', which read the scenes' words only, or the base URL of an OpenAI-compatible endpoint, such as"
        " http://127.0.0.1:8000/v1 [%(default)s]",
    )
    parser.add_argument("--judge-model", metavar="NAME", help="the model's name at that endpoint")
    parser.add_argument(
        "--api-key-env", metavar="VARIABLE", help=f"environment variable that holds the endpoint's key [{KEY}]"
    )
    parser.add_argument(
        "--ignore-colors",
        action="store_true",
        help="things of different colours may be the same object, as in the paper",
    )


def chosen(options: argparse.Namespace, *, scenes: bool) -> Chosen:
    """The judge that a command line names.

    Args:
        options: the command line.
        scenes: whether what is judged may be in the scenes' words.

    Raises:
        EvaluationError: it names none, one that cannot judge this, or the key is missing.
    """
    colors = {"ignore_colors": options.ignore_colors}
    if options.judge == RULES and not scenes:
        raise EvaluationError("--judge rules: they read the scenes' words only; a folder's pictures need --judge URL")
    if options.judge == RULES:
        return Chosen(RuleJudge(**colors), {"judge": RULES, **colors})
    url = _url(options.judge)
    if not options.judge_model:
        raise EvaluationError(f"--judge-model: expected the name of a model that {url} serves")
    from lookonce_evaluation.judge.llm import LLMJudge  # openai is imported when it is asked

    texts = (wording.LIST, wording.MATCH, wording.COLORS_COUNT, wording.COLORS_IGNORED)
    prompts = hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()
    asked = {"judge": url, "judge_model": options.judge_model, "judge_prompts": prompts, **colors}
    return Chosen(LLMJudge(url, options.judge_model, _key(options.api_key_env), **colors), asked)


def _url(given: str) -> str:
    """A base URL, which may be recorded and shown."""
    if not _is_base(given):
        shown = repr(given) if "@" not in given and "?" not in given else "a URL with a user or a query in it"
        raise EvaluationError(
            f"--judge {shown}: expected 'rules' or a base URL such as http://127.0.0.1:8000/v1; keys go into an"
            " environment variable, see --api-key-env"
        )
    return given.rstrip("/")


def _is_base(given: str) -> bool:
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:  # brackets or a port that are none
        return False
    named = parts.scheme in ("http", "https") and parts.hostname and port != 0
    return bool(named and "@" not in parts.netloc and not parts.query)


def _key(variable: str | None) -> str | None:
    key = os.environ.get(variable or KEY, "").strip()
    if variable and not key:
        raise EvaluationError(f"--api-key-env {variable}: the environment has no such variable, or it is empty")
    if not (key.isascii() and key.isprintable()):
        raise EvaluationError(f"--api-key-env {variable or KEY}: the variable holds no key that could be sent")
    return key or None
