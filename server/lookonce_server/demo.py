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

from lookonce import Answer, APIConnectionError, Client, LookonceError
from lookonce_scenes.questions import OPEN, Question, yes_no_pair
from lookonce_scenes.world import Scene, render, sample_scene

_START_SECONDS = 120.0
_LINE = "{:>6} {:>6}  {:4}  {}"  # no wider than 80 columns, with the longest question and its answer


@contextmanager
def running_server() -> Iterator[Client]:
    """Run a server on a free port; gives a client of it once it is ready.

    Raises:
        LookonceError: it does not start; it has said why.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lookonce", "serve", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - ourselves
    try:
        with Client(f"http://127.0.0.1:{port}", max_retries=0) as client:
            _wait_until_ready(client, process)
            yield client
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(client: Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.models()
        except APIConnectionError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise LookonceError("the server does not start") from None
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
    questions = questions_about(scene, random.Random(arguments.seed))  # noqa: S311 - not for secrets
    with running_server() as client:
        session = client.image(png.getvalue())
        _say(f"The picture: {scene.caption}\n")
        _say(_LINE.format("ms", "tokens", "", "question and answer; tokens: those that were run for it"))
        _say(_row(questions[0], session.ask(questions[0].text, mode="full_image")))
        started = time.perf_counter()
        context = session.prepare()
        milliseconds = f"{1000 * (time.perf_counter() - started):.1f}"
        _say(_LINE.format(milliseconds, "", "once", "the describe pass; what follows comes from its context"))
        for question in questions:
            _say(_row(question, session.ask(question.text)))
    _say(f"\nDescribed once: {context.description}")
    _say(
        f"Kept {context.kept_tokens} of {context.image_tokens} image tokens; the context has {context.tokens} tokens"
        f" and {context.bytes:,} bytes."
    )


def _row(question: Question, answer: Answer) -> str:
    origin = "hit" if answer.hit else "full"
    run = answer.prompt_tokens - answer.cached_tokens
    wrong = "" if answer.text == question.answer else "  WRONG"
    return _LINE.format(f"{1000 * answer.seconds:.1f}", run, origin, f"{question.text} {answer.text}{wrong}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a demonstration


if __name__ == "__main__":
    try:
        main()
    except (LookonceError, OSError, ValueError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
