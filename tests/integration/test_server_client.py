"""lookonce's own clients and command against a real server."""

import asyncio
import io
import json
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from PIL import Image

import lookonce

from ..support.blocking import Blocking
from ..support.network import Network
from ..support.pictures import find_question, png, questions
from ..support.pseudo_terminal import PseudoTerminal
from ..support.server_process import LookonceServer, environment

FIND = "Find the red object."


@pytest.fixture(scope="module")
def server(embedded: LookonceServer) -> LookonceServer:
    """To clients all engines are alike."""
    return embedded


@pytest.fixture(params=[lookonce.Client, lookonce.AsyncClient], ids=["sync", "async"])
def connect(request):
    """Makes clients, of either kind, which are closed at the end."""
    with ExitStack() as stack:

        def connect(url, **options):
            client = request.param(url, **options)
            if request.param is lookonce.AsyncClient:
                client = Blocking(client, stack.enter_context(asyncio.Runner()))
            return stack.enter_context(client)

        yield connect


@pytest.fixture
def looking(connect, server):
    return connect(server.url)


@pytest.fixture
def new_png(request, connect):
    """An image of its own for each kind of client: the same pixels, in a file of another length."""

    def file(seed):
        return png(seed) + (b"" if request.node.callspec.params["connect"] is lookonce.Client else b"\0")

    return file


@pytest.fixture
def command(server):
    """Runs `lookonce` against the server."""

    def run(*arguments: str, status: int = 0, typed: str = "") -> str:
        words = [sys.executable, "-m", "lookonce", *arguments, "--server", server.url]
        done = subprocess.run(
            words, input=typed, capture_output=True, text=True, timeout=120, env=environment(), check=False
        )
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


@pytest.fixture
def at_terminal(server):
    """Runs `lookonce` at a terminal."""
    variables = environment() | {"TERM": "xterm", "LOOKONCE_SERVER": server.url}
    return lambda *arguments: PseudoTerminal(*arguments, environment=variables)


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_picture_is_sent_once_and_asked_about_often(server, looking, new_png):
    with looking.image(new_png(309)) as image:
        first = image.ask(find_question(309))
        assert (first.hit, first.tier, first.tokens_saved, len(image.context_id)) == (False, None, 0, 64)
        server.wait_for("queue_depth", 0)
        for question in questions(309, 4):
            answer = image.ask(question.text, max_tokens=16)
            assert (answer.hit, answer.tier, answer.context_id) == (True, "memory", first.context_id)
            assert answer.cached_tokens == answer.context_tokens > 0
            assert answer.tokens_saved > 100
            assert answer.text
    saved = looking.saved
    assert (saved.questions, saved.hits) == (5, 4)
    assert saved.bytes_not_sent > 4 * len(new_png(309))
    assert 0.5 < saved.share < 1


def test_a_prepared_picture_answers_from_its_context_at_once(looking, new_png):
    image = looking.image(new_png(302))
    image.prepare()
    answer = image.ask(find_question(302))
    assert answer.hit
    with image.stream(find_question(302)) as stream:
        pieces = list(stream)
    assert "".join(pieces) == stream.answer.text == answer.text
    assert len(pieces) > 1
    assert stream.answer.completion_tokens == answer.completion_tokens


def test_a_batch_about_a_new_picture_sends_it_once(looking, new_png):
    image = looking.image(new_png(314))
    asked = [question.text for question in questions(314, 6)]
    answers = image.ask_all(asked, max_tokens=16)
    assert [answer.hit for answer in answers] == [False] + 5 * [True]
    assert [answer.text for answer in answers[1:]] == [image.ask(q, max_tokens=16).text for q in asked[1:]]
    assert image.saved.bytes_not_sent > 10 * len(new_png(314))


def test_a_description_appears_as_it_is_generated(looking, new_png):
    image = looking.image(new_png(315))
    with image.describe() as description:
        pieces = list(description)
    assert len(pieces) > 3
    assert "".join(pieces).strip() == description.context.description == image.description
    assert description.created
    again = looking.image(new_png(315)).describe()
    assert list(again) == [image.description]
    assert not again.created


def test_a_description_that_another_request_makes_is_waited_for(looking, new_png):
    first = looking.image(new_png(321)).describe()
    next(first)  # it has begun
    second = looking.image(new_png(321)).describe()
    assert "".join(second).strip() == second.context.description
    list(first)
    assert first.context == second.context


def test_a_conversation_stays_on_the_context(looking, new_png):
    image = looking.image(new_png(316))
    image.prepare()
    chat = image.chat(max_tokens=16)
    answers = [chat.ask(question.text) for question in questions(316, 2)]
    list(chat.stream("What is there?"))
    assert [answer.hit for answer in answers] == [True, True]
    assert answers[1].prompt_tokens > answers[0].prompt_tokens
    assert [turn.answer for turn in chat.turns[:2]] == [answer.text for answer in answers]
    assert image.saved.hits == 3


def test_options_of_the_context(looking, new_png):
    image = looking.image(new_png(317), retention=0.1, ttl=3600, describe_prompt="What is there?", on_miss="compress")
    answer = image.ask(FIND)
    context = image.prepare()
    assert (answer.hit, answer.context_id, context.kept_tokens) == (False, context.id, 20)
    assert context.expires_at - context.created_at <= 3601
    assert looking.image(new_png(317)).prepare().id != context.id
    with pytest.raises(lookonce.BadRequestError, match="retention") as caught:
        looking.image(new_png(317), retention=0.99).prepare()
    assert caught.value.param == "retention"


def test_bypassing_the_cache(looking, new_png):
    image = looking.image(new_png(318))
    image.prepare()
    answer = image.ask(FIND, cache="bypass")
    assert (answer.cache, answer.hit, answer.tokens_saved) == ("bypass", False, 0)
    assert image.ask(FIND).hit


def test_what_was_kept(looking, new_png):
    image = looking.image(new_png(319))
    found = image.tokens()
    assert (found.grid, len(found.scores), len(found.kept), found.id) == ((14, 14), 196, 10, image.context_id)
    assert len(image.tokens(retention=0.5).kept) == 98
    over, bare = image.heatmap(), looking.image(f"lookonce:{image.context_id}").heatmap(retention=0.5)
    assert [Image.open(io.BytesIO(file)).format for file in (over, bare)] == ["PNG", "PNG"]
    assert over != bare


def test_contexts_are_listed_and_deleted(looking, new_png):
    context = looking.create_context(new_png(303))
    assert context.kept_tokens == 10
    assert looking.get_context(context.id).description == context.description
    assert context.id in [other.id for other in looking.list_contexts()]
    assert looking.context_stats().contexts >= 1
    named = looking.image(f"lookonce:{context.id}")
    assert named.ask(FIND).hit
    looking.delete_context(context.id)
    with pytest.raises(lookonce.ContextNotFoundError):
        named.ask(FIND)


def test_a_lost_context_costs_no_answer(looking, new_png):
    image = looking.image(new_png(304))
    image.prepare()
    looking.delete_context(image.context_id)
    assert not image.ask(FIND).hit


def test_what_is_to_be_forgotten_is_gone_even_if_it_was_just_being_made(looking, new_png):
    with looking.image(new_png(320), forget=True) as image:
        context_id = image.ask(FIND).context_id
    with pytest.raises(lookonce.ContextNotFoundError):
        looking.get_context(context_id)


def test_on_miss_compress(looking, new_png):
    answer = looking.image(new_png(305)).ask(FIND, on_miss="compress")
    assert (answer.hit, answer.context_tokens > 0) == (False, True)


def test_refusals_are_the_clients_errors(looking):
    with pytest.raises(lookonce.BadRequestError) as caught:
        looking.image(b"no image").ask(FIND)
    assert caught.value.code == "invalid_image"
    with pytest.raises(lookonce.BadRequestError, match="temperature"):
        looking.image(png(301)).ask(FIND, temperature=3.0)


def test_a_network_that_cuts_connections_is_not_noticed(server, connect):
    with Network(int(server.url.rpartition(":")[2])) as network:
        looking = connect(f"http://127.0.0.1:{network.port}")
        image = looking.image(png(301))
        image.prepare()
        before = network.connections
        network.cut_midway(after=0, cuts=2)
        assert image.ask(FIND).hit
        assert (network.connections - before, network.cuts) == (2, 0)
        network.cut_midway(after=20, cuts=2)
        assert "".join(image.stream(FIND))
        image.ask(FIND)  # the end of the stream has come through by then, and takes none of the cuts that follow
        network.cut_midway(after=0, cuts=3)
        with pytest.raises(lookonce.APIConnectionError):
            image.ask(FIND)


def test_a_stream_that_is_cut_is_not_begun_again(server, connect):
    with Network(int(server.url.rpartition(":")[2])) as network:
        image = connect(f"http://127.0.0.1:{network.port}").image(png(310))
        image.prepare()
        image.ask(FIND)  # the client asks for the model's name once
        before = server.metric("requests_total")
        network.cut_midway(after=2500)  # of the headers and some 25 words
        stream = image.stream("What is there?")
        with pytest.raises(lookonce.APIConnectionError):
            list(stream)
        assert server.metric("requests_total") == before + 1


def test_threads_share_a_session(server):
    with lookonce.Client(server.url) as looking:
        image = looking.image(png(322))
        asked = [question.text for question in questions(322, 4)]
        got: list[str] = []
        threads = [threading.Thread(target=lambda: got.extend(image.ask(q).text for q in asked)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert image.saved.questions == len(got) == 16


def test_the_command_asks_and_tells_where_the_answers_come_from(command, picture):
    command("describe", picture(306))
    said = command("ask", picture(306), "How many objects are there?", FIND)
    assert said.count("> ") == 2
    assert said.count("hit (memory)") == 2
    assert "2 questions, 2 hits · saved " in said
    answer, last = objects(command("ask", picture(306), FIND, "--json", "--max-tokens", "1"))
    assert (answer["question"], answer["hit"], answer["completion_tokens"]) == (FIND, True, 1)
    assert last["saved"]["hits"] == 1


def test_the_command_describes(command, picture, tmp_path):
    (made,) = objects(command("describe", picture(307), "--json"))
    assert (made["image_tokens"], made["kept_tokens"], made["created"]) == (196, 10, True)
    said = command("describe", picture(307), "--heatmap", str(tmp_path / "kept.png"))
    assert said.startswith(f"{made['description']}\n  was there · kept 10 of 196 image tokens")
    assert said.endswith(f"\nlookonce:{made['id']}\n")
    assert Image.open(io.BytesIO((tmp_path / "kept.png").read_bytes())).format == "PNG"
    assert "hit (memory)" in command("ask", f"lookonce:{made['id']}", FIND)
    (other,) = objects(command("describe", picture(307), "--json", "--retention", "0.1"))
    assert other["kept_tokens"] == 20


def test_the_command_answers_a_pipe(command, picture):
    asked = [question.text for question in questions(308, 3)]
    said = command("chat", picture(308), "--on-miss", "compress", typed="\n".join(asked))
    assert len(said.splitlines()) == 3
    *answers, last = objects(command("chat", picture(308), "--json", typed="\n".join(asked)))
    assert [answer["text"] for answer in answers] == said.splitlines()
    assert last["saved"]["hits"] == 3


def test_the_command_lists_shows_and_removes(command, picture):
    made = [json.loads(command("describe", picture(seed), "--json"))["id"] for seed in (311, 312, 313)]
    listed = [json.loads(line)["id"] for line in command("contexts", "ls", "--json").splitlines()]
    assert listed[:3] == made[::-1]
    assert made[2][:12] in command("contexts", "ls", "--limit", "1")
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


def test_a_description_at_a_terminal(at_terminal, picture):
    with at_terminal("describe", picture(323)) as terminal:
        assert terminal.end() == 0
    assert "… 0 s" in terminal.output
    assert "  made now · kept 10 of 196 image tokens" in terminal.text
    assert "\x1b[2m" in terminal.output


def test_a_conversation_at_a_terminal(at_terminal, picture):
    asked = [question.text for question in questions(324, 2)]
    with at_terminal("chat", picture(324), "--on-miss", "compress") as terminal:
        for turn, question in enumerate(asked):
            terminal.wait_for("> ", turn + 1)
            terminal.type(f"{question}\n")
            terminal.wait_for(" saved · ", turn + 1)
        terminal.wait_for("> ", 3)
        terminal.type("\x04")
        assert terminal.end() == 0
    assert "hit (memory)" in terminal.text
    assert "2 questions, 1 hit · saved " in terminal.text
