"""Say questions as people type them: politely, indirectly, or without care."""

import random
import re

_DIRECT = (
    "Please tell me: {q}", "Could you please tell me: {q}", "Please answer: {q}", "{Q} Please answer briefly.",
    "{Q} Answer with one word.", "Hello! {Q}", "Can you tell me: {q}", "Tell me, {q}", "Look at the image. {Q}",
    "{Q} Thanks.", "Please, {q}", "{Q} Thank you.", "Hi. {Q}", "OK, {q}", "And {q}",
)  # fmt: skip
_INDIRECT = (
    "Could you please tell me {}?", "Can you tell me {}?", "Please tell me {}.", "Tell me {}.", "Please say {}.",
    "I would like to know {}.", "Could you tell me {}?", "Do you know {}?",
)  # fmt: skip
_REPORTED = (
    (r"(What|Which) (color|colour|shape|size) is (the .+|it|this)\?", "{0} {1} {2} is"),
    (r"Where is (the .+|it)\?", "where {0} is"),
    (r"How many (\S+(?: \S+)?) are there\?", "how many {0} there are"),
    (r"What is (the .+)\?", "what {0} is"),
    (r"Is there (an? .+)\?", "whether there is {0}"),
    (r"Do you see (an? .+)\?", "if you see {0}"),
)


def say(text: str, rng: random.Random) -> str:
    """Say a question as people do: politely, or without capital or question mark."""
    form = rng.random()
    if form < 0.12:
        begun = text[0].lower() + text[1:]
        return rng.choice(_DIRECT).format(Q=text, q=begun)
    if form < 0.2:
        for pattern, reported in _REPORTED:
            if found := re.fullmatch(pattern, text):
                words = [group[0].lower() + group[1:] for group in found.groups()]
                return rng.choice(_INDIRECT).format(reported.format(*words))
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
    return text.rstrip("?.") if rng.random() < 0.07 else text
