"""An OpenAI-compatible endpoint that plays back what a language model might answer, written by hand."""

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lookonce_evaluation.tasks.judge import llm
from lookonce_evaluation.tasks.judge.command import fixed_set

# By what is altered: the objects of the original, those of the altered description, and the pairs that match. Words
# differ from the rules' where a model's would.
ANSWERS = {
    "the same": (["small orange circle"], ["small orange circle"], [(1, 1)]),
    "the same, three objects": (
        ["large purple star", "small red circle", "small green square"],
        ["large purple star", "small red circle", "small green square"],
        [(1, 1), (2, 2), (3, 3)],
    ),
    "one is missing": (
        ["orange square (large)", "purple star (large)"], ["a large orange square"], [(1, 1)],
    ),
    "one is invented": (["small blue circle"], ["small blue circle", "big blue square"], [(1, 1)]),
    "another colour": (["little red disc"], ["small blue circle"], []),
    "another kind": (["little red disc"], ["small red square"], []),
    "another size and place": (["little red disc"], ["large red circle"], [(1, 1)]),
    "another order": (
        ["large yellow star", "small blue square", "small red triangle"],
        ["red triangle", "yellow star", "blue square"],
        [(3, 1), (1, 2), (2, 3)],
    ),
    "no text": (["orange square (large)", "purple star (large)"], [], []),
    "nothing, in words": (["small blue circle"], [], []),
    "an answer to another question": (["large purple star", "small red circle", "small green square"], [], []),
    "a count, which is no digit that is shown": (["small orange circle"], [], []),
    "a digit": (["large blue 7", "small green star"], ["the digit seven, in blue", "green star"], [(1, 1), (2, 2)]),
    "another digit": (["large blue 7", "small green star"], ["large blue 1", "small green star"], [(2, 2)]),
    "it repeats itself": (["red circle"], ["small red circle"], [(1, 1)]),
    "it breaks off": (["large purple star", "small red circle"], ["purple star"], [(1, 1)]),
    "colours are left out": (["small red circle", "large blue square"], ["circle", "square"], [(1, 1), (2, 2)]),
    "a colour is left out, and two would fit": (["small red circle", "small blue circle"], ["circle"], [(1, 1)]),
    "colours are left out of the original": (["square", "red star"], ["large blue square"], [(1, 1)]),
    "colours are exchanged": (["small red circle", "large blue square"], ["small blue circle", "large red square"], []),
    "words without sense": (["small red circle", "large blue square"], [], []),
    "colours alone": (["small red circle", "large blue square"], [], []),
    "the original names nothing": ([], ["small red circle"], []),
    "both name nothing": ([], [], []),
    "one kind in several colours": (
        ["small red star", "small green star", "large yellow star"], ["green star", "purple star"], [(2, 1)],
    ),
    "one of four is missing": (
        ["yellow star", "orange square", "green circle", "yellow triangle"],
        ["yellow star", "orange square", "yellow triangle"],
        [(1, 1), (2, 2), (4, 3)],
    ),
    "a plural": (["small red circle", "small blue star"], ["red circles", "blue star"], [(1, 1), (2, 2)]),
    "other sentences": (["green triangle", "yellow 3"], ["large green triangle", "yellow 3"], [(1, 1), (2, 2)]),
    "more is invented than is kept": (
        ["small purple square"],
        ["small purple square", "large red star", "small green circle", "large orange 5"],
        [(1, 1)],
    ),
    "nothing is kept of four": (
        ["yellow star", "orange square", "green circle", "yellow triangle"], ["small blue circle"], [],
    ),
}  # fmt: skip


def listed(objects: Sequence[str]) -> str:
    return json.dumps({"objects": list(objects)})


def matched(pairs: Sequence[tuple[int, int]]) -> str:
    return json.dumps({"matches": [{"original": one, "altered": other} for one, other in pairs]})


def replies(*, tidy: bool = False) -> dict[str, list[str]]:
    """Replies by the question that is asked, one a try; unless they shall be tidy, all kinds of sloppiness in turn."""
    found: dict[str, list[str]] = {}
    number = itertools.count()
    for known in fixed_set():
        original, altered, pairs = ANSWERS[known.what]
        for text, objects in ((known.original, original), (known.altered, altered)):
            said = (
                [listed(objects)]
                if tidy
                else _sloppy(next(number), listed(objects), listed([*objects, *map(str.upper, objects)]))
            )
            if text.strip():
                found.setdefault(llm.list_question(text), said)
        if original and altered:
            doubled = [*reversed(pairs), *pairs]
            said = [matched(pairs)] if tidy else _sloppy(next(number), matched(pairs), matched(doubled))
            found[llm.match_question(original, altered)] = said
    return found


def _sloppy(number: int, tidy: str, doubled: str) -> list[str]:
    return [
        [tidy],
        [f"```json\n{tidy}\n```"],
        [f"<think>The red one is {{not}} the same. ```x```</think>\n\n{tidy}"],
        [doubled],
        [f"Here you are:\n\n```\n{json.dumps(json.loads(tidy), indent=2)}\n```\nTell me if you need more!"],
        ["I cannot say what is in a picture that I do not see.", tidy],
        [f'{{"answer": {tidy}}}', f"  {tidy}\n"],
    ][number % 7]


class Endpoint:
    """What was asked, and what is answered.

    Args:
        replies: by question, one a try; a question that is not among them is refused.
        refuse: options that it does not take, as an error says that names them.
        say: instead of all that, a status and a body.
    """

    def __init__(
        self, replies: dict[str, list[str]], refuse: Sequence[str] = (), say: tuple[int, str] | None = None
    ) -> None:
        self.replies, self.refuse, self.say = replies, refuse, say
        self.requests: list[dict] = []
        self.keys: set[str] = set()

    def answer(self, path: str, body: dict) -> tuple[int, str]:
        self.requests.append(body)
        if self.say:
            return self.say
        for name in self.refuse:
            if name in body:
                return 400, json.dumps({"error": {"message": f"{name}: unsupported", "param": name, "code": None}})
        said = self.replies.get(body["messages"][1]["content"])
        tries = (len(body["messages"]) - 2) // 2
        if path != "/v1/chat/completions" or said is None:
            return 404, json.dumps({"error": {"message": f"not among the replies: {body['messages']}"}})
        return 200, completion(said[min(tries, len(said) - 1)])


def completion(said: str) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[str]:
    """The endpoint's base URL while it is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            endpoint.keys.add(self.headers["Authorization"])
            status, text = endpoint.answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
