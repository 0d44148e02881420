"""lookonce's own client and command against a real server."""

import json
import subprocess
import sys

import pytest

import lookonce

from .pictures import find_question, png, questions
from .server_process import environment

FIND = "Find the red object."


@pytest.fixture
def looking(server):
    with lookonce.Lookonce(server.url) as client:
        yield client


@pytest.fixture
def command(server):
    """Runs `lookonce` against the server."""

    def run(*arguments: str, status: int = 0) -> str:
        words = [sys.executable, "-m", "lookonce", *arguments, "--server", server.url]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment(), check=False)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


@pytest.fixture
def picture(tmp_path):
    def write(seed: int) -> str:
        path = tmp_path / f"{seed}.png"
        path.write_bytes(png(seed))
        return str(path)

    return write


def test_a_picture_is_sent_once_and_asked_about_often(server, looking, picture):
    image = looking.image(picture(309))
    first = image.ask(find_question(309))
    assert (first.hit, first.tier, first.tokens_saved, len(image.context_id)) == (False, None, 0, 64)
    server.wait_for("queue_depth", 0)
    for question in questions(309, 4):
        answer = image.ask(question.text, max_tokens=16)
        assert (answer.hit, answer.tier, answer.context_id) == (True, "memory", first.context_id)
        assert answer.cached_tokens == answer.context_tokens > 0
        assert answer.tokens_saved > 100
        assert answer.text


def test_a_prepared_picture_answers_from_its_context_at_once(looking):
    image = looking.image(png(302), prepare=True)
    answer = image.ask(find_question(302))
    assert answer.hit
    with image.stream(find_question(302)) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.answer.text == answer.text
    assert len(pieces) > 1
    assert stream.answer.completion_tokens == answer.completion_tokens


def test_contexts_are_listed_and_deleted(looking):
    context = looking.create_context(png(303))
    assert context.kept_tokens == 10
    assert looking.get_context(context.id).description == context.description
    assert context.id in [other.id for other in looking.list_contexts()]
    named = looking.image(f"lookonce:{context.id}")
    assert named.ask(FIND).hit
    looking.delete_context(context.id)
    with pytest.raises(lookonce.ContextNotFoundError):
        named.ask(FIND)


def test_a_lost_context_costs_no_answer(looking):
    image = looking.image(png(304), prepare=True)
    looking.delete_context(image.context_id)
    assert not image.ask(FIND).hit


def test_on_miss_compress(looking):
    answer = looking.image(png(305)).ask(FIND, on_miss="compress")
    assert (answer.hit, answer.context_tokens > 0) == (False, True)


def test_refusals_are_the_clients_errors(looking):
    with pytest.raises(lookonce.BadRequestError) as caught:
        looking.image(b"no image").ask(FIND)
    assert caught.value.code == "invalid_image"
    with pytest.raises(lookonce.BadRequestError, match="temperature"):
        looking.image(png(301)).ask(FIND, temperature=3.0)


def test_the_command_asks_and_tells_where_the_answers_come_from(command, picture):
    said = command("ask", picture(306), "How many objects are there?", FIND, "--prepare")
    assert said.count("> ") == 2
    assert said.count("hit (memory)") == 2
    lines = [
        json.loads(line) for line in command("ask", picture(306), FIND, "--json", "--max-tokens", "1").splitlines()
    ]
    assert [(line["question"], line["hit"], line["completion_tokens"]) for line in lines] == [(FIND, True, 1)]


def test_the_command_prepares(command, picture):
    made = json.loads(command("prepare", picture(307), "--json"))
    assert (made["image_tokens"], made["kept_tokens"]) == (196, 10)
    assert f"lookonce:{made['id']}" in command("prepare", picture(307))
    assert "hit (memory)" in command("ask", f"lookonce:{made['id']}", FIND)


def test_the_command_lists_shows_and_removes(command, picture):
    made = [json.loads(command("prepare", picture(seed), "--json"))["id"] for seed in (311, 312, 313)]
    listed = [json.loads(line)["id"] for line in command("contexts", "ls", "--json").splitlines()]
    assert listed[:3] == made[::-1]
    assert made[2] in command("contexts", "ls", "--limit", "1")
    assert "10 of 196 image tokens" in command("contexts", "show", made[0])
    before = json.loads(command("contexts", "stats", "--json"))
    assert command("contexts", "rm", *made[:2]) == f"removed {made[0]}\nremoved {made[1]}\n"
    assert json.loads(command("contexts", "stats", "--json"))["contexts"] == before["contexts"] - 2
    assert command("contexts", "rm", made[0], made[2], status=1) == f"lookonce: there is no context {made[0]}\n"
    assert "expired, was deleted" in command("contexts", "show", made[2], status=1)


def test_the_command_tells_what_is_wrong_in_one_line(command, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    said = command("ask", str(broken), FIND, status=1)
    assert said.startswith("lookonce: ")
    assert said.count("\n") == 1
    assert "known format" in said
