"""Ask a dozen questions about a drawn scene, and show what each cost."""

import argparse
import io
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from lookonce import Answer, APIConnectionError, Client
from lookonce_scenes.questions import OPEN, Question, yes_no_pair
from lookonce_scenes.world import Scene, render, sample_scene

_LINE = "{:46} {:13} {:5} {:4} {:>7} {:>6} {:>8}"


@contextmanager
def running_server() -> Iterator[str]:
    """Run a server on a free port; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lookonce", "serve", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - ourselves
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(client: Client, seconds: float = 120) -> None:
    """Return once the server answers, or raise its last error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.models()
        except APIConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


def questions_about(scene: Scene, rng: random.Random) -> list[Question]:
    """Draw an open and a yes/no question of each category that the scene allows."""
    questions = [asker(scene, rng) for asker in OPEN.values()]
    pairs = [yes_no_pair(scene, category, rng) for category in OPEN]
    return [question for question in questions if question] + [rng.choice(pair) for pair in pairs if pair]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m lookonce_server.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=11, help="number of the scene [%(default)s]")
    parser.add_argument("--save", help="also write the picture to this PNG file")
    arguments = parser.parse_args()
    scene = sample_scene(arguments.seed, min_objects=3)
    picture = Image.fromarray(render(scene))
    if arguments.save:
        picture.save(arguments.save)
    png = io.BytesIO()
    picture.save(png, "PNG")
    with running_server() as url, Client(url, max_retries=0) as client:
        wait_until_ready(client)
        session = client.image(png.getvalue())
        _say(f"The picture: {scene.caption}\n")
        _say(_LINE.format("question", "answer", "right", "", "context", "saved", "ms"))
        for question in questions_about(scene, random.Random(arguments.seed)):  # noqa: S311 - not for secrets
            answer = session.ask(question.text)
            _say(_row(question, answer))
        context = client.get_context(session.context_id or "")
    _say(f"\nDescribed once: {context.description}")
    _say(
        f"Kept {context.kept_tokens} of {context.image_tokens} image tokens; the context has {context.tokens} tokens"
        f" and {context.bytes:,} bytes."
    )


def _row(question: Question, answer: Answer) -> str:
    right = "yes" if answer.text == question.answer else "NO"
    cache = "hit" if answer.hit else "miss"
    milliseconds = f"{1000 * answer.seconds:.1f}"
    return _LINE.format(
        question.text, answer.text, right, cache, answer.context_tokens, answer.tokens_saved, milliseconds
    )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a demonstration


if __name__ == "__main__":
    main()
