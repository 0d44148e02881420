"""A language model as the judge, behind any endpoint that speaks OpenAI's chat completions."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, ValidationError

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.tasks.judge import wording
from lookonce_evaluation.tasks.judge.judges import Match, one_to_one

SEED = 0
TIMEOUT = 120.0
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_LONGEST_MESSAGE = 200  # characters of what an endpoint says
T = TypeVar("T", bound=BaseModel)


class LLMJudge:
    """Asks one question to list a description's objects, and one to match two lists.

    Answers are held to a JSON Schema where the endpoint takes one, and are read strictly either way: one that is not
    the JSON asked for is asked for again, once. The temperature is 0 and the seed fixed; what of these options the
    endpoint refuses is left out from then on, and told in `refused`.

    Args:
        url: the endpoint's base, as in "http://127.0.0.1:8000/v1".
        model: its name there.
        key: sent as the bearer token, and never shown; None for an endpoint that wants none.
        ignore_colors: whether things of different colours may be the same object.

    Raises:
        EvaluationError: when asked: the endpoint cannot be reached, refuses, or gives no answer that can be read.
    """

    def __init__(self, url: str, model: str, key: str | None, *, ignore_colors: bool = False) -> None:
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=TIMEOUT)
        self._key, self._where, self._model = key, f"--judge {url}", model
        self._options: dict[str, Any] = {"temperature": 0, "seed": SEED, "response_format": None}
        self._matching = wording.MATCH.format(
            criterion=wording.COLORS_IGNORED if ignore_colors else wording.COLORS_COUNT
        )
        colors = {"ignore_colors": ignore_colors}
        self.identity = {"judge": url, "judge_model": model, "judge_prompts": wording.digest(), **colors}
        self._answers: dict[tuple[str, str], Any] = {}
        self.refused: list[str] = []

    def objects(self, description: str) -> list[str]:
        """List the objects named, each once."""
        if not description.strip():
            return []
        answer = self._answer(wording.LIST, wording.description(description), wording.Listed)
        named: dict[str, str] = {}
        for phrase in filter(None, map(str.strip, answer.objects)):
            named.setdefault(phrase.casefold(), phrase)
        return list(named.values())

    def match(self, original: Sequence[str], altered: Sequence[str]) -> list[Match]:
        """Take the pairs that the model names; of those that share an object, the first counts."""
        if not (original and altered):
            return []
        lengths = {"original": len(original), "altered": len(altered)}
        answer = self._answer(self._matching, wording.lists(original, altered), wording.Matched, lengths)
        return one_to_one([Match(pair.original - 1, pair.altered - 1) for pair in answer.matches])

    def _answer(self, system: str, question: str, kind: type[T], context: Mapping[str, int] | None = None) -> T:
        """The answer to a question; the same one is asked once."""
        if (system, question) not in self._answers:
            self._answers[system, question] = self._ask(system, question, kind, context)
        answer: T = self._answers[system, question]
        return answer

    def _ask(self, system: str, question: str, kind: type[T], context: Mapping[str, int] | None) -> T:
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ]
        reply = ""
        for _ in range(2):
            reply = self._complete(messages, kind)
            try:
                return kind.model_validate_json(_json(reply), context=context)
            except ValidationError as error:
                problem = error.errors()[0]["msg"]
                again = f"That is not the JSON asked for ({problem}). Answer with that JSON alone."
                messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": again}]
        raise EvaluationError(
            f"{self._where}: twice, {self._model} gave no answer that can be read; the last was {self._shown(reply)!r}"
        )

    def _complete(self, messages: list[ChatCompletionMessageParam], kind: type[BaseModel]) -> str:
        while True:
            options = dict(self._options)
            if "response_format" in options:
                schema = {"name": kind.__name__.lower(), "strict": True, "schema": kind.model_json_schema()}
                options["response_format"] = {"type": "json_schema", "json_schema": schema}
            try:
                completion = self._client.chat.completions.create(model=self._model, messages=messages, **options)
                return completion.choices[0].message.content or ""
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._leave_out(error.param):
                    raise self._failed(error) from None
            except openai.OpenAIError as error:
                raise self._failed(error) from None
            except (AttributeError, TypeError, IndexError):
                raise EvaluationError(f"{self._where}: it does not answer as OpenAI's chat completions do") from None

    def _leave_out(self, param: str | None) -> bool:
        """Go without the option that an error names, or that is most often refused; whether there was one."""
        for name in ((param or "").partition(".")[0], "response_format"):
            if name in self._options:
                del self._options[name]
                self.refused.append(name)
                return True
        return False

    def _failed(self, error: openai.OpenAIError) -> EvaluationError:
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):  # some repeat the key
            return EvaluationError(f"{self._where}: the endpoint refuses the key")
        if isinstance(error, openai.APIConnectionError):
            return EvaluationError(f"{self._where}: the endpoint cannot be reached, or does not answer in time")
        return EvaluationError(f"{self._where}: {self._shown(str(error))}")

    def _shown(self, text: str) -> str:
        text = text.replace(self._key, "(key)") if self._key else text
        return " ".join(text.split())[:_LONGEST_MESSAGE]


def _json(reply: str) -> str:
    """A reply without what models put around JSON: their reasoning, and a code fence."""
    answer = reply.rpartition("</think>")[2]
    fenced = _FENCED.findall(answer)
    return fenced[-1] if fenced else answer.strip()
