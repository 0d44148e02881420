"""What whoever starts the server is told: where its page is, and what is not right."""

import json
import logging

import pytest

from lookonce_server.banner import announce, reachable_url, warnings_of
from lookonce_server.logs import JsonFormatter
from lookonce_server.settings import Settings


def test_the_banner_names_the_page_and_what_is_not_right(capsys):
    announce(Settings(), "http://127.0.0.1:8123", [])
    fine = capsys.readouterr().out
    assert fine.startswith("\nlookonce serves 'lookonce-scenes' at http://127.0.0.1:8123. Try its page in a browser:\n")
    assert "\n  http://127.0.0.1:8123/\n" in fine
    assert 'api_key="any"' in fine
    assert "Warning" not in fine
    settings = Settings(host="0.0.0.0", api_key_hashes="a=sha256:" + 64 * "0")
    announce(settings, "http://0.0.0.0:8123", ["the store does not answer.", "another thing."])
    wrong = capsys.readouterr().out
    assert "\n  http://127.0.0.1:8123/\n" in wrong  # which a browser can open
    assert 'api_key="<key>"' in wrong
    assert wrong.endswith('"<key>")\n\nWarning: the store does not answer.\n\nWarning: another thing.\n')


def test_in_a_log_of_json_it_is_lines_of_the_log(capsys, caplog):
    with caplog.at_level(logging.INFO, "lookonce_server"):
        announce(Settings(log_format="json"), "http://127.0.0.1:8123", ["the store does not answer."])
    assert capsys.readouterr() == ("", "")
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "lookonce serves 'lookonce-scenes' at http://127.0.0.1:8123. Try its page: http://127.0.0.1:8123/"),
        ("warning", "the store does not answer."),
    ]


def test_what_is_not_right():
    keys = "a=sha256:" + 64 * "0"
    assert warnings_of(Settings(), "ok") == []
    assert warnings_of(Settings(host="::1", allow_anyone=True), "ok") == []
    assert warnings_of(Settings(host="0.0.0.0", api_key_hashes=keys, allow_anyone=True), "ok") == []
    (open_to_all,) = warnings_of(Settings(host="0.0.0.0", allow_anyone=True), "ok")
    assert "no API keys, and --host 0.0.0.0" in open_to_all
    (away,) = warnings_of(Settings(), "unavailable")
    assert away.startswith("the store does not answer.")
    (read_only,) = warnings_of(Settings(), "read_only")
    assert read_only.startswith("the store takes no writes.")


@pytest.mark.parametrize(
    ("bound", "reachable"),
    [
        ("http://0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://[::]:80", "http://[::1]:80"),
        ("http://10.0.0.7:80", "http://10.0.0.7:80"),
        ("http://[fe80::1]:80", "http://[fe80::1]:80"),
    ],
)
def test_an_address_that_a_browser_can_open(bound, reachable):
    assert reachable_url(bound) == reachable
