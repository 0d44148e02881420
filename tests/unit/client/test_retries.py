"""What is sent again, how often, and after how long."""

import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lookonce
from lookonce._exceptions import status_error
from lookonce._requests import list_models
from lookonce._server import FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS, Pause, Server, retry_delay

from .contract_server import Failure

REQUEST = httpx2.Request("GET", "http://127.0.0.1/")
CUT = Failure(0)


def refused(status: int, retry_after: int | None = None) -> lookonce.APIStatusError:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return status_error(httpx2.Response(status, headers=headers, request=REQUEST))


@pytest.mark.parametrize("failure", [CUT, *map(Failure, (408, 429, 502, 503, 504))])
def test_a_moments_trouble_is_not_noticed(server, connect, png, failure):
    server.failures.extend([failure, failure])
    assert connect().image(png).ask("what?").text == "red"
    assert len(server.bodies()) == 3
    assert server.bodies()[0] == server.bodies()[2]


@pytest.mark.parametrize("failure", [CUT, Failure(503)])
def test_what_lasts_is_an_error(server, connect, png, failure):
    server.failures.extend([failure] * 3)
    with pytest.raises(lookonce.LookonceError):
        connect().image(png).ask("what?")
    assert len(server.bodies()) == 3


@pytest.mark.parametrize("max_retries", [0, 1, 5])
def test_as_often_as_was_asked_for(server, connect, png, max_retries):
    server.failures.extend([CUT] * 9)
    with pytest.raises(lookonce.APIConnectionError):
        connect(max_retries=max_retries).image(png).ask("what?")
    assert len(server.bodies()) == 1 + max_retries


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500, 501])
def test_what_would_fail_again_is_not_sent_again(server, connect, png, status):
    server.failures.append(Failure(status))
    with pytest.raises(lookonce.APIStatusError):
        connect().image(png).ask("what?")
    assert len(server.bodies()) == 1


def test_a_stream_is_opened_again(server, connect, png):
    server.failures.extend([CUT, Failure(503)])
    assert list(connect().image(png).stream("what?")) == ["dark ", "rød"]


def test_a_stream_that_has_begun_is_not(server, connect, png):
    server.stream_events = [json.dumps({"choices": [{"index": 0, "delta": {"content": "dark "}}]})]
    stream = connect().image(png).stream("what?")
    assert next(stream) == "dark "
    with pytest.raises(lookonce.APIResponseError, match="ended before it was complete"):
        next(stream)
    assert len(server.bodies()) == 1


def test_a_number_of_retries_that_is_none(connect):
    with pytest.raises(ValueError, match="max_retries is -1; 0 or more is expected"):
        connect(max_retries=-1)


def test_the_server_says_when_it_is_asked_again():
    sending = Server(max_retries=2).send(list_models())
    assert next(sending) == list_models()
    assert sending.throw(refused(503, retry_after=7)) == Pause(7)
    assert sending.send(None) == list_models()
    with pytest.raises(lookonce.ServerError):
        sending.throw(refused(503, retry_after=61))


@pytest.mark.parametrize(("told", "delay"), [(60, 60), (61, None), (3600, None)])
@pytest.mark.parametrize("status", [429, 503])
def test_whoever_wants_us_back_late_is_not_waited_for(status, told, delay):
    assert retry_delay(refused(status, told), 0) == delay


def test_a_server_that_is_slow_is_not_asked_again_but_one_out_of_reach_is():
    assert retry_delay(lookonce.APITimeoutError("slow", request=REQUEST), 0) is None
    assert retry_delay(lookonce.APIConnectionError("away", request=REQUEST), 0) is not None


def test_a_connection_not_made_in_time_is_out_of_reach(monkeypatch):
    def no_connection(*_: object, **__: object) -> None:
        raise httpx2.ConnectTimeout("", request=REQUEST)

    with lookonce.Client(max_retries=0) as client:
        monkeypatch.setattr(client._transport._client, "send", no_connection)
        with pytest.raises(lookonce.APIConnectionError, match="no connection in time") as raised:
            client.models()
    assert type(raised.value) is lookonce.APIConnectionError


@given(st.integers(0, 2000))
def test_the_time_doubles_up_to_a_limit_and_varies(retries):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lookonce._server.FIRST_DELAY_SECONDS", 0.5)
        delay = retry_delay(refused(502), retries)
        whole = min(MAX_DELAY_SECONDS, 0.5 * 2 ** min(retries, 4))
        assert 0.75 * whole <= delay <= whole
        assert len({retry_delay(refused(502), retries) for _ in range(9)}) > 1


def test_the_first_time_is_half_a_second():
    assert FIRST_DELAY_SECONDS == 0.5
