"""`lookonce contexts`: what is kept, as people and as programs read it."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookonce import Context, ContextStats, cli
from lookonce.cli import formatting

NOW = 1_700_000_000.0
ONE = Context(
    id="ab" * 32,
    description="A small blue square at the top left, a large red star.",
    image_tokens=576,
    kept_tokens=29,
    tokens=41,
    bytes=70_456,
    retention=0.05,
    selection="coverage",
    precision="native",
    created_at=NOW - 200,
    expires_at=NOW + 6.5 * 24 * 3600,
)
IDS = [f"{i:064x}" for i in range(130)]


@pytest.fixture
def run(server, capsys):
    """Runs `lookonce contexts`; gives the exit code, and what it wrote and complained."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["contexts", *arguments, "--server", server.url])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_table_with_the_beginnings_of_ids_in_the_first_column(server, run, context_id):
    server.contexts |= {context_id, IDS[7]}
    code, out, err = run("ls")
    first, *rows = out.splitlines()
    assert (code, err) == (0, "")
    assert re.split("  +", first) == ["ID", "AGE", "EXPIRES", "TOKENS KEPT", "SIZE", "DESCRIPTION"]
    assert [re.split("  +", row)[0] for row in rows] == [IDS[7][:12], context_id[:12]]
    assert re.split("  +", rows[1])[2:] == ["never", "4 of 64", "4.0 KiB", "a red circle"]
    assert first.index("DESCRIPTION") == rows[0].index("a red")
    assert json.loads(run("show", rows[1].split()[0], "--json")[1])["id"] == context_id


def test_no_contexts_are_no_rows(run):
    code, out, _ = run("ls")
    assert (code, out.count("\n")) == (0, 1)
    assert run("ls", "--json") == (0, "", "")


def test_all_pages_are_listed_or_as_many_as_wanted(server, run):
    server.contexts |= set(IDS)
    assert len(run("ls")[1].splitlines()) == 131
    assert len(run("ls", "--limit", "101")[1].splitlines()) == 102


def test_listed_as_json(server, run, context_id):
    server.contexts |= {context_id, IDS[0]}
    lines = run("ls", "--json")[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [IDS[0], context_id]
    assert json.loads(lines[0]).keys() == Context.__dataclass_fields__.keys()


def test_one_is_shown(server, run, context_id):
    server.contexts.add(context_id)
    code, out, _ = run("show", context_id)
    shown = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert (shown["id"], shown["kept"], shown["tokens"]) == (context_id, "4 of 64 image tokens", "20 in context")
    assert (shown["precision"], shown["description"], shown["expires"]) == ("int8", "a red circle", "never")
    assert json.loads(run("show", f"lookonce:{context_id}", "--json")[1])["id"] == context_id


def test_one_that_is_not_there(run, context_id):
    assert run("show", context_id) == (1, "", f"lookonce: no such context: {context_id!r}\n")


def test_each_removal_is_told_and_one_that_was_not_there_is_a_failure(server, run):
    server.contexts |= set(IDS[:2])
    assert run("rm", IDS[0]) == (0, f"removed {IDS[0]}\n", "")
    code, out, err = run("rm", IDS[0], f"lookonce:{IDS[1]}")
    assert (code, out, err) == (1, f"removed {IDS[1]}\n", f"lookonce: there is no context {IDS[0]}\n")
    assert server.contexts == set()


def test_removals_as_json(server, run):
    server.contexts.add(IDS[0])
    code, out, err = run("rm", IDS[0], IDS[1], "--json")
    assert (code, err) == (1, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": IDS[0], "removed": True},
        {"id": IDS[1], "removed": False},
    ]


@pytest.mark.parametrize("name", [IDS[0][:3], IDS[0] + "0", IDS[0].replace("0", "A"), "", "../../health"])
def test_what_is_no_id_and_no_beginning_of_one_removes_nothing(server, run, name):
    server.contexts.add(IDS[0])
    code, out, err = run("rm", IDS[0], name)
    assert (code, out) == (1, "")
    assert err == f"lookonce: not a context id: {name!r}; 64 hex digits are expected\n"
    assert server.contexts == {IDS[0]}


def test_an_id_may_be_given_by_a_beginning_that_no_other_has(server, run, context_id):
    ids = ["ab12" + "0" * 60, "ab34" + "0" * 60, "cd56" + "0" * 60]
    server.contexts |= set(ids)
    code, out, _ = run("show", ids[0][:4], "--json")
    assert (code, json.loads(out)["id"]) == (0, ids[0])
    assert run("show", f"lookonce:{ids[2][:6]}", "--json")[0] == 0
    for start, complaint in (("ab", "not a context id"), ("ffff", "no context's id begins with 'ffff'")):
        code, out, err = run("rm", ids[2][:4], start)
        assert (code, out) == (1, "")
        assert complaint in err
    server.contexts.add("ab12" + "1" * 60)
    code, _, err = run("rm", "ab12")
    assert code == 1
    assert "2 contexts' ids begin with 'ab12'" in err
    assert ids[0] in err
    assert set(ids) <= server.contexts
    assert run("rm", "cd56", ids[1])[0] == 0
    assert not {ids[1], ids[2]} & server.contexts


def test_other_failures_stop_the_removal(server, run):
    server.refuse = 503, json.dumps({"error": {"message": "the store is away"}}).encode()
    assert run("rm", IDS[0], IDS[1]) == (1, "", "lookonce: the store is away (request req-1)\n")
    assert len(server.requests) == 3


def test_stats(run):
    code, out, _ = run("stats")
    assert code == 0
    assert out.startswith("contexts  2\nsize      3.0 MiB (3145728 bytes)\noldest    ")
    assert out.splitlines()[-2:] == [
        "hits      3 of 4 lookups (75.0%) since the server started",
        "saved     900 prompt tokens since the server started",
    ]
    assert json.loads(run("stats", "--json")[1])["hit_rate"] == 0.75


def test_stats_of_nothing():
    said = formatting.stats_details(ContextStats(0, 0, None, None, 0, 0, None), NOW)
    assert said.splitlines() == [
        "contexts  0",
        "size      0 B (0 bytes)",
        "hits      0 of 0 lookups since the server started",
        "saved     0 prompt tokens since the server started",
    ]


def test_a_reader_that_has_seen_enough_is_no_failure_to_report(server):
    server.contexts |= set(IDS)
    words = [sys.executable, "-m", "lookonce", "contexts", "ls", "--server", server.url]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["contexts"], ["contexts", "rm"], ["contexts", "show"], ["contexts", "mv", "a"]])
def test_called_wrongly(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: lookonce contexts" in capsys.readouterr().err


def test_a_row():
    row = formatting.context_row(ONE, NOW, 80)
    assert row == "abababababab   3 min      6 d     29 of 576    68.8 KiB  A small blue square a…"
    assert formatting.context_row(ONE, NOW, 200).endswith("  A small blue square at the top left, a large red star.")


@given(
    context=st.builds(
        replace,
        st.just(ONE),
        description=st.text(max_size=100),
        image_tokens=st.integers(0, 99_999),
        kept_tokens=st.integers(0, 9_999),
        bytes=st.integers(0, 2**50),
        expires_at=st.none() | st.floats(NOW, NOW + 1e9),
    ),
    width=st.integers(80, 200),
)
def test_a_row_is_no_wider_than_the_terminal(context, width):
    row = formatting.context_row(context, NOW, width)
    assert formatting.columns(row) < width
    assert "\n" not in row
    shown = row.partition("iB  ")[2] or row.partition(" B  ")[2]
    assert shown.endswith("…") or shown == formatting.one_line(context.description)


def test_wide_characters_take_two_columns():
    wide = replace(ONE, description="\N{CJK UNIFIED IDEOGRAPH-5716}" * 40)
    row = formatting.context_row(wide, NOW, 80)
    assert row.endswith("KiB  " + "\N{CJK UNIFIED IDEOGRAPH-5716}" * 10 + "…")
    assert len(row) + 10 == 78
    combined = "e\N{COMBINING ACUTE ACCENT}" * 21
    assert formatting.context_row(replace(ONE, description=combined), NOW, 80).endswith(combined)


def test_a_description_cannot_steer_the_terminal():
    steering = replace(ONE, description="red\n\x1b[2J\x9b31mstar\u202e \t\x00end")
    assert formatting.context_row(steering, NOW, 80).endswith("  red [2J 31mstar end")
    assert "description  red [2J 31mstar end" in formatting.context_details(steering, NOW)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (90_000, "1 d")],
)
def test_spans(seconds, said):
    assert formatting.format_duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**4, "5.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_sizes(count, said):
    assert formatting.format_bytes(count) == said


def test_ages_are_of_now(server, run, context_id):
    server.contexts.add(context_id)
    days = int((time.time() - 1_700_000_000) // (24 * 3600))
    assert f"  {days} d  " in run("ls")[1]
