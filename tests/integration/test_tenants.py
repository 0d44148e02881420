"""Two tenants with keys of their own on one server: what is one's does not exist for the other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.pictures import messages, picture_url
from ..support.redis_server import RedisServer
from ..support.server_process import MODEL, LookonceServer

ALICE, BOB = "alice-and-co", "bob"
NO_CONTEXT = "0" * 64


class Tenant:
    """One who asks with a key, by OpenAI's own client."""

    def __init__(self, server: LookonceServer, name: str, key: str) -> None:
        self.name = name
        self.key = key
        self._server = server
        self._client = server.openai(api_key=key)

    def ask(self, image: str, question: str = "What is there?", **options):
        return self._client.chat.completions.create(
            model=MODEL, messages=messages(question, image), **{"max_tokens": 16} | options
        )

    def learn(self, seed: int) -> str:
        """The id of a picture's context, described now."""
        made = self._client.post("/contexts", body={"image_url": picture_url(seed)}, cast_to=object)
        return made["id"]

    def plain(self, method: str, path: str, **options):
        """What plain HTTP gets with the key."""
        headers = {"authorization": f"Bearer {self.key}"}
        with self._server.http(headers=headers) as client:
            return client.request(method, f"/v1{path}", **options)

    def listed(self) -> set[str]:
        reply = self.plain("GET", "/contexts")
        assert reply.status_code == 200, reply.text
        return {context["id"] for context in reply.json()["data"]}

    def stats(self) -> dict:
        return self.plain("GET", "/contexts/stats").json()

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The file of keys, and a key of each tenant."""
    keys = {name: new_key() for name in (ALICE, BOB)}
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    lines = [f'"{name}" = ["sha256:{key_hash(key)}"]' for name, key in keys.items()]
    path.write_text("\n".join(["[tenants]", *lines]))
    return path, keys


@pytest.fixture(scope="module", params=["memory", "redis"])
def shared(request, keys: tuple[Path, dict[str, str]]) -> Iterator[LookonceServer]:
    """The server that both ask."""
    if request.param == "memory":
        with LookonceServer("--api-keys", str(keys[0])) as server:
            yield server
    else:
        with RedisServer() as store, LookonceServer("--api-keys", str(keys[0]), "--store", store.url) as server:
            yield server


@pytest.fixture(scope="module")
def tenants(shared: LookonceServer, keys: tuple[Path, dict[str, str]]) -> Iterator[list[Tenant]]:
    both = [Tenant(shared, name, keys[1][name]) for name in (ALICE, BOB)]
    yield both
    for tenant in both:
        tenant.close()


# What is counted of a question's way through the server.
WORK = {
    "hits": ("context_lookups_total", {"result": "hit"}),
    "misses": ("context_lookups_total", {"result": "miss"}),
    "describes": ("describes_total", {"result": "done"}),
    "waits": ("describe_waits_total", {}),
    "prompt_tokens": ("prompt_tokens_processed_total", {}),
    "saved_tokens": ("prompt_tokens_saved_total", {}),
    **{name: ("store_operations_total", {"operation": name}) for name in ("get", "state", "lease", "put", "release")},
}


def asked(server: LookonceServer, tenant: Tenant, seed: int) -> tuple[dict[str, float], dict, dict]:
    """What a question takes, the describe pass behind it included; its usage, and how it was answered."""
    before = server.metrics(**WORK)
    completion = tenant.ask(picture_url(seed), max_tokens=4)
    server.wait_for("store_operations_total", before["release"] + 1, operation="release")  # the last that happens
    taken = {name: value - before[name] for name, value in server.metrics(**WORK).items()}
    answered = {name: value for name, value in completion.lookonce.items() if name not in ("context_id", "images")}
    return taken, completion.usage.model_dump(), answered


def test_what_is_ones_does_not_exist_for_the_other(shared, tenants):
    alice, bob = tenants
    context_id = alice.learn(360)
    assert context_id in alice.listed()
    assert alice.plain("GET", f"/contexts/{context_id}").status_code == 200

    chat = {"model": MODEL, "messages": messages("Hi", f"lookonce:{context_id}")}
    never = {"model": MODEL, "messages": messages("Hi", f"lookonce:{NO_CONTEXT}")}
    in_company = chat | {"messages": [*chat["messages"], *never["messages"]]}
    for method, path, body, like, like_body in (
        ("GET", f"/contexts/{context_id}", None, f"/contexts/{NO_CONTEXT}", None),
        ("DELETE", f"/contexts/{context_id}", None, f"/contexts/{NO_CONTEXT}", None),
        ("POST", "/chat/completions", chat, "/chat/completions", never),
        ("POST", "/chat/completions", in_company, "/chat/completions", never),
    ):
        theirs = bob.plain(method, path, json=body)
        nobodys = bob.plain(method, like, json=like_body)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.json()["error"]["code"] == "context_not_found"
        assert theirs.text.replace(context_id, NO_CONTEXT) == nobodys.text
        assert set(theirs.headers) == set(nobodys.headers)
    assert context_id not in bob.listed()
    with pytest.raises(openai.NotFoundError):
        bob.ask(f"lookonce:{context_id}")
    assert alice.ask(f"lookonce:{context_id}").lookonce["cache"] == "hit"  # nor was it deleted


def test_stats_are_of_ones_own(tenants):
    alice, bob = tenants
    before = bob.stats()
    context_id = alice.learn(361)
    alice.ask(f"lookonce:{context_id}")
    assert bob.stats() == before
    found = alice.stats()
    assert found["contexts"] == len(alice.listed()) >= 1
    assert found["hits"] >= 1


def test_one_image_of_both_is_two_contexts_and_a_miss_each(shared, tenants):
    alice, bob = tenants
    described = shared.metric("describes_total", result="done")
    answers = [tenant.ask(picture_url(362)) for tenant in tenants]
    shared.wait_for("describes_total", described + 2, result="done")
    assert [completion.lookonce["cache"] for completion in answers] == ["miss", "miss"]
    ids = [completion.lookonce["context_id"] for completion in answers]
    assert ids[0] != ids[1]
    for tenant, own, other in ((alice, *ids), (bob, *reversed(ids))):
        assert tenant.ask(picture_url(362)).lookonce["context_id"] == own
        assert (own in tenant.listed(), other in tenant.listed()) == (True, False)
    assert alice.plain("DELETE", f"/contexts/{ids[0]}").status_code == 200
    assert bob.ask(f"lookonce:{ids[1]}").lookonce["cache"] == "hit"


def test_neither_waits_for_the_others_describe_pass(shared, tenants):
    """Both at once, many times: each has a miss, and a pass of its own."""
    alice, bob = tenants
    described, waited = shared.metric("describes_total", result="done"), shared.metric("describe_waits_total")
    seeds = range(370, 373)
    with ThreadPoolExecutor(2 * len(seeds)) as pool:
        pairs = [
            [pool.submit(tenant.ask, picture_url(seed), max_tokens=4) for tenant in (alice, bob)] for seed in seeds
        ]
        caches = [[one.result().lookonce["cache"] for one in pair] for pair in pairs]
    assert caches == [["miss", "miss"]] * len(seeds)
    shared.wait_for("describes_total", described + 2 * len(seeds), result="done")
    assert shared.metric("describe_waits_total") == waited


def test_an_image_that_the_other_has_takes_the_same_way_as_one_that_nobody_has(shared, tenants):
    """By counts: lookups, store calls, describe passes and tokens, besides what the client is told."""
    alice, bob = tenants
    alice.learn(363)
    assert alice.ask(picture_url(363)).lookonce["cache"] == "hit"
    for tenant in tenants:  # so that the engine has seen either before
        asked(shared, tenant, 364)
    theirs, nobodys = asked(shared, bob, 363), asked(shared, bob, 365)
    assert theirs == nobodys
    assert (theirs[0]["misses"], theirs[0]["hits"], theirs[0]["describes"]) == (1, 0, 1)


def test_metrics_name_nobody(shared, tenants, keys):
    context_ids = [tenant.learn(366) for tenant in tenants]
    page = shared.get("/metrics").text
    for secret in (ALICE, BOB, *keys[1].values(), *map(key_hash, keys[1].values()), *context_ids):
        assert secret not in page
        assert secret[:12] not in page or secret == BOB
    said = shared.log()
    assert not any(key in said for key in keys[1].values())


@pytest.mark.parametrize("key", ["wrong", "lo-" + "x" * 43, "lo-\N{LATIN SMALL LETTER E WITH ACUTE}".encode().hex()])
def test_a_wrong_key_is_refused_in_openais_words(shared, tenants, key):
    with shared.openai(api_key=key) as stranger:
        for call in (
            lambda: stranger.chat.completions.create(model=MODEL, messages=messages("Hi", None)),
            lambda: stranger.models.list(),
            lambda: stranger.get("/contexts", cast_to=object),
            lambda: stranger.get("/contexts/stats", cast_to=object),
            lambda: stranger.post("/contexts", body={"image_url": picture_url(360)}, cast_to=object),
            lambda: stranger.delete(f"/contexts/{NO_CONTEXT}", cast_to=object),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
            assert (caught.value.type, caught.value.param) == ("invalid_request_error", None)
            assert caught.value.response.headers["www-authenticate"] == "Bearer"
            assert key not in caught.value.message


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "{key}", "Bearer {key} more"])
def test_a_missing_key_is_refused(shared, keys, header):
    headers = {} if header is None else {"authorization": header.format(key=keys[1][BOB])}
    with shared.http(headers=headers) as client:
        reply = client.get("/v1/models")
        assert client.get("/health").status_code == 200  # which tell nothing of anybody, and are asked by machines
        assert client.get("/ready").status_code == 200
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert keys[1][BOB] not in reply.text
