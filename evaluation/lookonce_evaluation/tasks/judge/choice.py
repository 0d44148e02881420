"""Who judges: options of the commands that judge."""

import argparse
import os
from urllib.parse import urlsplit

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.tasks.judge.rules import RULES, RuleJudge
from lookonce_evaluation.tasks.judge.verdicts import Judge

KEY = "OPENAI_API_KEY"
_JUDGE = (
    "'rules', which read the scenes' words only, or the base URL of an OpenAI-compatible endpoint, such as"
    " http://127.0.0.1:8000/v1 [%(default)s]"
)


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line say who judges."""
    parser.add_argument("--judge", default=RULES, metavar="rules|URL", help=_JUDGE)
    parser.add_argument("--judge-model", metavar="NAME", help="the model's name at that endpoint")
    told = f"environment variable that holds the endpoint's key [{KEY}]"
    parser.add_argument("--api-key-env", metavar="VARIABLE", help=told)
    told = "things of different colours may be the same object, as in the paper"
    parser.add_argument("--ignore-colors", action="store_true", help=told)


def judge_of(options: argparse.Namespace, *, scenes: bool) -> Judge:
    """Make the judge that a command line names.

    Args:
        options: the command line.
        scenes: whether what is judged may be in the scenes' words.

    Raises:
        EvaluationError: it names none, one that cannot judge this, or the key is missing.
    """
    if options.judge == RULES and not scenes:
        raise EvaluationError("--judge rules: they read the scenes' words only; a folder's pictures need --judge URL")
    if options.judge == RULES:
        return RuleJudge(ignore_colors=options.ignore_colors)
    url = _base_url(options.judge)
    if not options.judge_model:
        raise EvaluationError(f"--judge-model: expected the name of a model that {url} serves")
    from lookonce_evaluation.tasks.judge.llm import LLMJudge  # openai is imported when it is asked

    return LLMJudge(url, options.judge_model, _key(options.api_key_env), ignore_colors=options.ignore_colors)


def _base_url(text: str) -> str:
    """A base URL, which may be recorded and shown."""
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
