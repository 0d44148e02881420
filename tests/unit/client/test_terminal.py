"""The command at a terminal: answers appear as they come, in colour, with progress before them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce.cli.terminal import Terminal, one_line, printable

from ...support.pseudo_terminal import PseudoTerminal
from .contract_server import urls

BOLD, DIM, CLEARED = "\x1b[1m", "\x1b[2m", "\x1b[K"
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture
def at_terminal(server, tmp_path, png):
    """Runs a command about an image at a terminal of a given kind."""
    (tmp_path / "a.png").write_bytes(png)

    def run(command: str, *arguments: str, **variables: str) -> PseudoTerminal:
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
        environment |= {"TERM": "xterm", "LOOKONCE_SERVER": server.url, **variables}
        return PseudoTerminal(command, str(tmp_path / "a.png"), *arguments, environment=environment)

    return run


def test_answers_are_streamed_in_colour(server, at_terminal):
    server.held = True
    with at_terminal("ask", "what?") as terminal:
        terminal.wait_for("dark ")
        assert "rød" not in terminal.output
        server.go_on.set()
        assert terminal.end() == 0
    assert f"{BOLD}> what?" in terminal.output
    assert f"{DIM}  miss · 0 tokens in context · 0 saved" in terminal.output
    assert "dark rød\n  miss" in terminal.text


def test_progress_is_shown_and_gone(at_terminal):
    with at_terminal("ask", "what?") as terminal:
        assert terminal.end() == 0
    before, _, after = terminal.output.partition("asking… 0 s")
    assert before.endswith(f"\r{CLEARED}")
    assert f"\r{CLEARED}dark " in after


def test_progress_is_gone_too_where_it_fails(server, at_terminal):
    server.refuse = 400, b'{"error": {"message": "no"}}'
    with at_terminal("ask", "what?") as terminal:
        assert terminal.end() == 1
    assert f"\r{CLEARED}" in terminal.output.partition("asking…")[2].partition("lookonce: no\r\n")[0]


@pytest.mark.parametrize(
    ("arguments", "variables", "has_color", "has_progress"),
    [
        ([], {}, True, True),
        ([], {"NO_COLOR": "1"}, False, True),
        ([], {"NO_COLOR": ""}, True, True),
        ([], {"TERM": "dumb"}, False, False),
        (["--color", "never"], {}, False, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True, True),
        (["--color", "always"], {"TERM": "dumb"}, True, False),
        (["--json"], {}, False, False),
    ],
)
def test_who_gets_colour_and_progress(at_terminal, arguments, variables, has_color, has_progress):
    with at_terminal("ask", "what?", *arguments, **variables) as terminal:
        assert terminal.end() == 0
    assert ((DIM in terminal.output), ("asking…" in terminal.output)) == (has_color, has_progress)


def test_a_description_appears_as_it_is_generated(server, at_terminal, context_id):
    server.held = True
    with at_terminal("describe") as terminal:
        terminal.wait_for("a red ")
        assert "circle" not in terminal.output
        server.go_on.set()
        assert terminal.end() == 0
    assert "a red circle\n  made now · kept 4 of 64 image tokens (attention, retention 0.05)" in terminal.text
    assert terminal.text.endswith(f"\nlookonce:{context_id}\n")


def test_what_the_server_does_is_told_before_the_description(server, at_terminal):
    server.stream_events = ['{"type": "context.queued"}', '{"type": "context.surprise"}']
    server.held = 1
    with at_terminal("describe") as terminal:
        terminal.wait_for("queued… ")
        server.go_on.set()
        assert terminal.end() == 1


def test_a_conversation(server, at_terminal):
    with at_terminal("chat") as terminal:
        terminal.wait_for("> ")
        terminal.type("what?\n")
        terminal.wait_for("0 saved")
        terminal.wait_for("> ", 2)
        terminal.type("\n")
        terminal.wait_for("> ", 3)
        terminal.type("and?\n")
        terminal.wait_for("70 saved")
        terminal.wait_for("> ", 4)
        terminal.type("/new\n")
        terminal.wait_for("> ", 5)
        terminal.type("again?\n")
        terminal.wait_for("70 saved", 2)
        terminal.wait_for("> ", 6)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert [len(body["messages"]) for body in server.bodies()] == [1, 3, 1]
    assert "dark rød\n  miss" in terminal.text
    assert "\n3 questions, 2 hits · saved 140 of 250 prompt tokens (56%) · " in terminal.text


def test_the_commands_of_a_conversation(server, at_terminal, tmp_path, png):
    second = tmp_path / "the second.png"
    second.write_bytes(png + b"2")
    with at_terminal("chat") as terminal:
        terminal.wait_for("/help lists")
        prompts = 1

        def enter(line: str, shown: str) -> None:
            nonlocal prompts
            terminal.wait_for("> ", prompts)
            terminal.type(f"{line}\n")
            terminal.wait_for(shown)
            prompts += 1

        enter("/help", "/quit         end")
        enter("/imagine x", "no command '/imagine'; there are /image, /new, /help, /quit")
        enter("/image", "/image needs a path")
        enter("/image no.png", "cannot read the image 'no.png': No such file")
        enter("what?", "0 tokens in context")
        enter(f"/image '{second}'", "added; it goes with the next question")
        server.refuse = 400, b'{"error": {"message": "that was too long"}}'
        enter("and both?", "lookonce: that was too long")
        server.refuse = None
        enter("and both?", "1 of 2 images known")
        enter("/usr/bin?", "40 tokens in context")
        enter("/NEW", "")
        enter("alone?", "20 tokens in context")
        terminal.wait_for("> ", prompts)
        terminal.type("/quit\n")
        assert terminal.end() == 0
    assert [len(urls(body)) for body in server.bodies()] == [1, 2, 2, 2, 1]  # what was refused, asked again, kept
    assert [len(body["messages"]) for body in server.bodies()] == [1, 3, 3, 5, 1]
    assert "\n4 questions, " in terminal.text


def test_a_conversation_may_begin_without_an_image(server, tmp_path, png):
    (tmp_path / "a.png").write_bytes(png)
    environment = {**os.environ, "TERM": "xterm", "LOOKONCE_SERVER": server.url}
    with PseudoTerminal("chat", environment=environment) as terminal:
        terminal.wait_for("> ")
        terminal.type(f"/image {tmp_path}/a.png\n")
        terminal.wait_for("added")
        terminal.type("what?\n/quit\n")
        assert terminal.end() == 0
    assert [len(urls(body)) for body in server.bodies()] == [1]


def test_lines_can_be_edited_and_come_again(server, at_terminal):
    pytest.importorskip("readline")
    with at_terminal("chat") as terminal:
        terminal.wait_for("> ")
        terminal.type("whut\x7f\x7fat?\n")
        terminal.wait_for("0 saved")
        terminal.wait_for("> ", 2)
        terminal.type("\x1b[A\n")
        terminal.wait_for("70 saved")
        terminal.wait_for("> ", 3)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    asked = [body["messages"][-1]["content"] for body in server.bodies()]
    assert (asked[0][1]["text"], asked[1]) == ("what?", "what?")


def test_ctrl_c_stops_the_answer_under_way_and_the_conversation_goes_on(server, at_terminal):
    server.held = True
    with at_terminal("chat") as terminal:
        terminal.wait_for("> ")
        terminal.type("what?\n")
        terminal.wait_for("dark ")
        terminal.type(CTRL_C)
        terminal.wait_for("stopped")
        server.held = False
        server.go_on.set()
        terminal.wait_for("> ", 2)
        terminal.type("and?\n")
        terminal.wait_for("70 saved")
        terminal.wait_for("> ", 3)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert [len(body["messages"]) for body in server.bodies()] == [1, 1]  # what was stopped is not remembered


def test_ctrl_c_at_the_prompt_drops_the_line(server, at_terminal):
    with at_terminal("chat") as terminal:
        terminal.wait_for("> ")
        terminal.type("wha")
        terminal.wait_for("wha")
        terminal.settle()
        terminal.type(CTRL_C)
        terminal.wait_for("> ", 2)
        terminal.type("?\n")
        terminal.wait_for("0 saved")
        terminal.wait_for("> ", 3)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert [body["messages"][0]["content"][1]["text"] for body in server.bodies()] == ["?"]


def test_ctrl_c_ends_other_commands(server, at_terminal):
    server.held = True
    with at_terminal("ask", "what?") as terminal:
        terminal.wait_for("dark ")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert "Traceback" not in terminal.output


def test_an_error_does_not_end_a_conversation(server, at_terminal):
    with at_terminal("chat") as terminal:
        terminal.wait_for("> ")
        server.refuse = 400, b'{"error": {"message": "that was too long"}}'
        terminal.type("what?\n")
        terminal.wait_for("lookonce: that was too long")
        server.refuse = None
        terminal.wait_for("> ", 2)
        terminal.type("and?\n")
        terminal.wait_for("0 saved")
        terminal.wait_for("> ", 3)
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_a_models_text_cannot_steer_the_terminal(server, at_terminal):
    server.stream_events = [
        '{"choices": [{"index": 0, "delta": {"content": "red\\u001b[2J\\u009b31m\\r\\nstar\\u202e"}}], "lookonce": '
        '{"cache": "hit", "tier": "\\u001b[5m", "context_tokens": 1, "tokens_saved": 1}}',
        "[DONE]",
    ]
    with at_terminal("ask", "what?", "--color", "never") as terminal:
        assert terminal.end() == 0
    assert "red [2J 31m \r\nstar " in terminal.output
    assert not any(bad in terminal.output for bad in ("\x1b[2J", "\x1b[5m", "\x9b", "\u202e"))


@given(st.text())
def test_control_characters_are_taken_out(text):
    assert all(c.isprintable() for c in one_line(text))
    assert all(c.isprintable() or c in "\n\t" for c in printable(text))
    assert len(printable(text)) == len(text)


def test_lines_stay_lines_and_a_line_becomes_one():
    assert printable("a\tb\r\nc\x0b") == "a\tb \nc "
    assert one_line(" a\tb\r\nc\x0b") == "a b c"


def test_what_is_no_terminal_gets_neither():
    terminal = Terminal("auto", {"TERM": "xterm"})
    assert (terminal.is_tty, terminal.bold("a"), terminal.dim("a")) == (False, "a", "a")
    assert Terminal("always", {}).bold("a") == "\x1b[1ma\x1b[0m"
