"""A model whose chat template prints the date before the image, and the clock that it looks at."""

import copy
from datetime import datetime
from typing import Any

from transformers.utils import chat_template_utils

from lookonce_scenes.tokenizer import CHAT_TEMPLATE
from lookonce_server.engines.prompts import PromptRenderer

DATED = CHAT_TEMPLATE.replace(
    "{{ bos_token }}", "{{ bos_token }}{{ '<|system|>Today is ' + strftime_now('%d %B %Y') }}"
)


class Clock:
    """What templates take for the time, set by the test; `spoil` changes it at each look."""

    def __init__(self, monkeypatch: Any) -> None:
        self.now = datetime(2026, 11, 30, 23, 59)
        self.looks = 0
        clock = self

        class Stopped(datetime):
            @classmethod
            def now(cls, tz=None) -> datetime:
                clock.looks += 1
                return clock.now

        monkeypatch.setattr(chat_template_utils, "datetime", Stopped)

    def strike(self) -> None:
        """The next day begins."""
        self.now = self.now.replace(month=12, day=1 + (self.now.day if self.now.month == 12 else 0))


def dated_processor(processor: Any, template: str = DATED) -> Any:
    """The processor with that template."""
    processor = copy.copy(processor)
    processor.chat_template = template
    return processor


def dated_prompts(processor: Any, config: Any, template: str = DATED) -> PromptRenderer:
    return PromptRenderer(dated_processor(processor, template), config)
