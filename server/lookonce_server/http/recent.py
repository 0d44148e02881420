"""Remember the latest questions by their figures, for the page that watches the server."""

import time
from collections import defaultdict, deque
from typing import Any

from lookonce_server.logs import RequestFacts

_QUESTIONS = 40  # of each tenant
_FIGURES = (
    *("status", "error", "cache", "images", "hits", "prompt_tokens", "saved_tokens", "generated_tokens"),
    *("first_token_seconds", "seconds"),
)


class RecentQuestions:
    """The figures of each tenant's latest questions: nothing that was asked, shown or answered."""

    def __init__(self) -> None:
        self._questions: defaultdict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=_QUESTIONS))

    def add(self, facts: RequestFacts) -> None:
        """Remember a request that has ended, if it was a question that got as far as its lookup."""
        if facts.tenant is not None and facts.cache is not None:
            figures = {name: getattr(facts, name) for name in _FIGURES}
            self._questions[facts.tenant].append({"time": time.time(), **figures})

    def of(self, tenant: str) -> list[dict[str, Any]]:
        """Return a tenant's questions, the newest first."""
        return [*reversed(self._questions[tenant])] if tenant in self._questions else []
