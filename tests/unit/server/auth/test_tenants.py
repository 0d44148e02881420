"""Who asks: API keys from a file and from a setting, the bearer token, and the gate before every route below /v1."""

import base64
import hmac
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import APIRoute

from lookonce_cache import DEFAULT_TENANT
from lookonce_server.app import running_app
from lookonce_server.auth import tenants
from lookonce_server.auth.keys import read_keys
from lookonce_server.auth.rate_limit import TenantLimits
from lookonce_server.auth.tenants import TenantDirectory, key_hash, new_key
from lookonce_server.cli import new_key as new_key_command
from lookonce_server.errors import AccessConfigError, InvalidKeyError
from lookonce_server.settings import Settings

from ....support.samples import png

pytestmark = pytest.mark.anyio
KEYS = {"acme": "lo-" + "Ab_" * 14 + "-", "globex": "lo-" + "cD-" * 14 + "_"}
WRONG = "lo-" + "eF9" * 14 + "0"


@pytest.fixture
def keys_file(tmp_path):
    def write(text: str):
        path = tmp_path / "keys.toml"
        path.write_text(text)
        return path

    return write


def line(tenant: str, *keys: str) -> str:
    hashes = [f"sha256:{key_hash(key)}" for key in keys]
    return f'"{tenant}" = {json.dumps(hashes)}\n'


def known(path=None, hashes: str | None = None) -> TenantDirectory:
    return TenantDirectory(read_keys(path, hashes, TenantLimits()).tenants)


# ---- the file


def test_without_keys_all_are_the_default_tenant():
    assert not known().asks_for_keys
    assert known().tenant(None) == known().tenant("Bearer anything") == DEFAULT_TENANT


def test_a_key_stands_for_its_tenant(keys_file):
    second = new_key()
    file = keys_file("[tenants]\n" + line("acme", KEYS["acme"], second) + line("a.b-c_9", KEYS["globex"]))
    access = known(file)
    assert access.asks_for_keys
    assert access.tenant(f"Bearer {KEYS['acme']}") == access.tenant(f"Bearer {second}") == "acme"
    assert access.tenant(f"Bearer {KEYS['globex']}") == "a.b-c_9"


def test_the_same_key_twice_for_one_tenant_is_no_harm(keys_file):
    file = keys_file("[tenants]\n" + line("acme", KEYS["acme"], KEYS["acme"]))
    assert known(file, f"acme=sha256:{HASH}").tenant(f"Bearer {KEYS['acme']}") == "acme"


def test_a_tenant_may_be_a_table_with_limits_of_its_own(keys_file):
    file = keys_file(
        f"[tenants]\nplain = {LISTED}\n"
        f'[tenants.acme]\nkeys = ["sha256:{key_hash(WRONG)}"]\nmax_concurrent = 4\nrequests_per_minute = 60\n'
        f'[tenants.globex]\nkeys = ["sha256:{key_hash(KEYS["globex"])}"]\nmax_concurrent = 5\n'
    )
    keys = read_keys(file, None, TenantLimits(1, 30))
    assert set(keys.tenants.values()) == {"plain", "acme", "globex"}
    assert keys.limits == {"acme": TenantLimits(4, 60), "globex": TenantLimits(5, 30)}  # what is missing is the default


HASH = key_hash(KEYS["acme"])
LISTED = f'["sha256:{HASH}"]'
WRONG_FILES = [
    ("", r"expected one table, \[tenants\]"),
    ("[tenants]\n", r"expected one table, \[tenants\]"),
    ("tenants = 3\n", r"expected one table, \[tenants\]"),
    (f"acme = {LISTED}\n", r"expected one table, \[tenants\]"),
    (f"[tenants]\nacme = {LISTED}\n[keys]\n", r"expected one table, \[tenants\]"),
    (f'[tenants]\nacme = "sha256:{HASH}"\n', "tenant acme: expected a list of 'sha256:' with 64 hex digits each"),
    ("[tenants]\nacme = []\n", "tenant acme: expected a list"),
    ("[tenants]\nacme = [1]\n", "tenant acme: expected a list"),
    (f'[tenants]\nacme = ["{HASH}"]\n', "tenant acme: expected a list"),
    (f'[tenants]\nacme = ["sha256:{HASH.upper()}"]\n', "tenant acme: expected a list"),
    (f'[tenants]\nacme = ["sha256:{HASH[:-1]}"]\n', "tenant acme: expected a list"),
    (f'[tenants]\nacme = ["sha256:{HASH}", "{KEYS["acme"]}"]\n', "tenant acme: expected a list"),
    ("[tenants.acme]\nkeys = []\n", "tenant acme: expected a list"),
    ("[tenants.acme]\nmax_concurrent = 3\n", "tenant acme: keys: Field required"),
    (f"[tenants.acme]\nkeys = {LISTED}\nmax_concurrent = 0\n", "acme: max_concurrent: .* greater .*given: 0"),
    (f"[tenants.acme]\nkeys = {LISTED}\nmax_concurrent = 1.5\n", "acme: max_concurrent: .* valid integer .*given: 1.5"),
    (f'[tenants.acme]\nkeys = {LISTED}\nrequests_per_minute = "9"\n', "acme: requests_per_minute: .*given: '9'"),
    (f"[tenants.acme]\nkeys = {LISTED}\nburst = 9\n", "acme: burst: .*accepted: keys, max_concurrent, requests_per_"),
    (f'[tenants.acme]\nkeys = {LISTED}\n"{KEYS["acme"]}" = 1\n', r"tenant acme: \*\*\*: "),
    (f'[tenants]\n"" = {LISTED}\n', "tenant: ''; accepted: 1 to 64 letters"),
    (f'[tenants]\n"a/b" = {LISTED}\n', "tenant: 'a/b'; accepted: "),
    (f'[tenants]\n"-a" = {LISTED}\n', "a letter or digit first"),
    (f'[tenants]\n"{"a" * 65}" = {LISTED}\n', "accepted: 1 to 64 letters"),
    (f'[tenants]\n"ä" = {LISTED}\n', "accepted: 1 to 64 letters"),
    (f"[tenants]\nacme = {LISTED}\nglobex = {LISTED}\n", "tenants acme and globex have a key in common"),
    (f"[tenants]\nacme = {LISTED}\nacme = {LISTED}\n", r"Cannot overwrite a value \(at line 3"),
    (f'[tenants]\n"sha256:{HASH}" = "acme"\n', r"tenant: 'sha256:\*\*\*'; accepted: "),
    (f'[tenants]\n{KEYS["acme"]} = "acme"\n', r"tenant \*\*\*: expected a list"),
    (f'[tenants]\na = {{{HASH} = "acme", {HASH} = "globex"}}\n', r"Duplicate inline table key '\*\*\*'"),
    (f"[tenants]\nacme = [sha256:{HASH}]\n", r"\(at line 2"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_FILES, ids=range(len(WRONG_FILES)))
def test_a_wrong_file_is_named_with_what_is_accepted_and_its_secrets_are_not(keys_file, text, said):
    path = keys_file(text)
    with pytest.raises(AccessConfigError, match=said) as raised:
        known(path)
    message = str(raised.value)
    assert message.startswith(f"--api-keys {path}: ")
    assert raised.value.__cause__ is None
    assert HASH not in message.lower()
    assert KEYS["acme"] not in message


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(AccessConfigError, match="No such file"):
        known(tmp_path / "missing.toml")
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(AccessConfigError, match="can't decode byte"):
        known(tmp_path / "latin")
    with pytest.raises(AccessConfigError, match=r"--api-keys \*\*\*: ") as raised:
        known(Path(KEYS["acme"]))  # the key where its file should be
    assert KEYS["acme"] not in str(raised.value)


async def test_a_server_with_a_wrong_file_does_not_start(keys_file, monkeypatch):
    monkeypatch.setattr("lookonce_server.app._load_engine", None)  # not come to
    with pytest.raises(AccessConfigError):
        async with running_app(Settings(api_keys=keys_file("[tenants]\n"))):
            pass


# ---- the setting


@pytest.mark.parametrize("between", [",", ", ", " ", "\n", ",,"])
def test_keys_in_a_setting_stand_beside_those_of_a_file(keys_file, between):
    entries = between.join(f"{tenant}=sha256:{key_hash(key)}" for tenant, key in KEYS.items())
    access = known(keys_file("[tenants]\n" + line("third", WRONG)), entries)
    assert [access.tenant(f"Bearer {key}") for key in (*KEYS.values(), WRONG)] == ["acme", "globex", "third"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected entries as tenant=sha256:<64 hex digits>, separated by commas"),
        (" , ", "expected entries"),
        ("acme", "tenant acme: expected tenant=sha256:<64 hex digits>"),
        (f"acme={HASH}", "tenant acme: expected"),
        (f"acme=sha256:{HASH},globex", "tenant globex: expected"),
        (f"acme={KEYS['acme']}", "tenant acme: expected"),
        (f"sha256:{HASH}", r"tenant: 'sha256:\*\*\*'; accepted: 1 to 64 letters"),
        (f"a/b=sha256:{HASH}", "tenant: 'a/b'; accepted"),
        (f"acme=sha256:{HASH},globex=sha256:{HASH}", "tenants acme and globex have a key in common"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_accepted_and_its_secrets_are_not(text, said):
    with pytest.raises(AccessConfigError, match=said) as raised:
        known(None, text)
    assert str(raised.value).startswith("--api-key-hashes: ")
    assert HASH not in str(raised.value)
    assert KEYS["acme"] not in str(raised.value)


# ---- the header


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_the_schemes_case_does_not_matter(scheme):
    assert TenantDirectory({key_hash("lo-1"): "acme"}).tenant(f"{scheme}lo-1") == "acme"


@pytest.mark.parametrize(
    "header", [None, "", "lo-1", "Bearer", "Bearer ", "Basic lo-1", "Bearer lo-1 lo-1", "Bearerlo-1"]
)
def test_what_is_no_bearer_token_is_told_so(header):
    with pytest.raises(InvalidKeyError, match="send the header 'Authorization: Bearer <key>'"):
        TenantDirectory({key_hash("lo-1"): "acme"}).tenant(header)


@pytest.mark.parametrize("key", ["lo-2", "LO-1", "lo-1\xe9", "lo-11", key_hash("lo-1"), "sha256:" + key_hash("lo-1")])
def test_a_wrong_key_is_refused_and_not_repeated(key):
    with pytest.raises(InvalidKeyError, match="not one of this server's") as raised:
        TenantDirectory({key_hash("lo-1"): "acme"}).tenant(f"Bearer {key}")
    assert key not in str(raised.value)


@pytest.mark.parametrize("key", [*KEYS.values(), WRONG])
def test_every_key_is_looked_at_whichever_was_given(monkeypatch, key):
    looks = []

    def looked(one: str, other: str) -> bool:
        looks.append(one)
        return compare(one, other)

    compare = hmac.compare_digest
    monkeypatch.setattr(tenants.hmac, "compare_digest", looked)
    everybody = TenantDirectory({key_hash(key): tenant for tenant, key in KEYS.items()})
    try:
        everybody.tenant(f"Bearer {key}")
    except InvalidKeyError:
        assert key == WRONG
    assert looks == [key_hash(key) for key in KEYS.values()]


def test_keys_are_long_and_never_alike():
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"lo-[A-Za-z0-9_-]{43}", key) for key in made)


# ---- lookonce new-key


@pytest.mark.parametrize("tenant", ["acme", "a.b-c_9", "9", "default", "x" * 64])
def test_what_new_key_prints_goes_into_the_file(keys_file, capsys, tenant):
    assert new_key_command([tenant]) == 0
    said = capsys.readouterr().out
    (key,) = re.findall(r"^ +(lo-\S+)$", said, re.MULTILINE)
    pasted, entry = re.findall(r"^.*sha256:.*$", said, re.MULTILINE)
    assert known(keys_file(f"[tenants]\n{pasted}\n")).tenant(f"Bearer {key}") == tenant
    variable, _, value = entry.strip().partition("=")
    assert variable == "LOOKONCE_API_KEY_HASHES"
    assert known(None, value).tenant(f"Bearer {key}") == tenant
    assert key not in pasted + entry


@pytest.mark.parametrize("arguments", [[], [""], ["no way"], ["../x"], ["x" * 65], ["a", "b"], ["-a"], ["a\n"], ["ä"]])
def test_new_key_refuses_what_cannot_be_a_tenant(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        new_key_command(arguments)
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out) == (2, "")
    assert "lookonce new-key: error: " in captured.err


LIGHT = """
import sys
from lookonce_server.cli import new_key
assert new_key(["acme"]) == 0
heavy = {"torch", "transformers", "fastapi", "pydantic", "numpy", "vllm", "redis"} & set(sys.modules)
assert not heavy, heavy
"""


def test_new_key_loads_nothing_that_is_heavy():
    """Without what the environment itself loads at each start of Python."""
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-S", "-c", LIGHT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "sha256:" in done.stdout


# ---- the server


@pytest.fixture(scope="module")
async def app(tmp_path_factory):
    path = tmp_path_factory.mktemp("access") / "keys.toml"
    path.write_text("[tenants]\n" + "".join(line(tenant, key) for tenant, key in KEYS.items()))
    async with running_app(Settings(api_keys=path, describe_tokens=24)) as app:
        yield app


@pytest.fixture
async def client(app):
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as made:
        yield made


def bearing(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def data_url(seed: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"


def assert_refused(reply: httpx2.Response) -> None:
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    error = reply.json()["error"]
    assert error.pop("message")
    assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}


@pytest.mark.parametrize("key", [None, WRONG, ""])
async def test_every_route_below_v1_wants_a_key(app, client, key):
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path.startswith("/v1")]
    asked = [(method, route.path) for route in routes for method in route.methods]
    assert len(asked) >= 8
    for method, path in [*asked, ("GET", "/v1/nowhere"), ("PUT", "/v1/contexts"), ("OPTIONS", "/v1/models")]:
        reply = await client.request(method, re.sub(r"\{.*?\}", "0" * 64, path), headers=bearing(key))
        assert_refused(reply)


async def test_only_these_routes_are_open(app, client):
    found = {route.path for route in app.routes if not route.path.startswith("/v1/")}
    examples = {"scenes/{number}.png", "albums/{number}/{at}.png", "videos/{number}/{at}.png"}
    examples |= {f"{kind}/{{number}}.json" for kind in ("scenes", "albums", "videos")}
    playground = {"settings.json", "area.json", "assets"} | examples
    pages = {"/", "/docs", "/monitor", "/monitor/data.json"} | {f"/playground/{name}" for name in playground}
    assert found == {"/health", "/ready", "/metrics", "/openapi.json"} | pages
    for path in ("/health", "/ready", "/metrics"):
        for key in (None, WRONG):
            assert (await client.get(path, headers=bearing(key))).status_code == 200


@pytest.mark.parametrize("key", [None, WRONG])
async def test_without_a_key_nothing_is_read_nor_done(app, client, key, caplog):
    caplog.set_level(logging.DEBUG)
    before = (await client.get("/metrics")).text
    read = 0

    async def body():
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    for path in ("/v1/chat/completions", "/v1/contexts"):
        assert_refused(await client.post(path, content=body(), headers=bearing(key)))
    assert read == 0
    image = {"url": data_url(81)}
    chat = {
        "model": "lookonce-scenes",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image}]}],
    }
    assert_refused(await client.post("/v1/chat/completions", json=chat, headers=bearing(key)))
    assert_refused(await client.post("/v1/contexts", json={"image_url": data_url(81)}, headers=bearing(key)))
    after = (await client.get("/metrics")).text
    assert without_process_metrics(after) == without_process_metrics(before)
    assert app.state.parts.contexts.describe_queue._jobs == {}
    for secret in (WRONG, key_hash(WRONG), *KEYS.values(), *map(key_hash, KEYS.values())):
        assert secret not in caplog.text


def without_process_metrics(text: str) -> list[str]:
    """Ours, without the store's pings, which /ready makes, and without the refusals themselves."""
    return [line for line in text.splitlines() if 'operation="ping"' not in line and "_requests_refused_" not in line]


async def test_a_tenant_meets_its_own_contexts_only(client):
    acme, globex = (bearing(KEYS[tenant]) for tenant in ("acme", "globex"))
    made = (await client.post("/v1/contexts", json={"image_url": data_url(82)}, headers=acme)).json()
    path = f"/v1/contexts/{made['id']}"
    assert (await client.get(path, headers=acme)).status_code == 200
    for method in ("GET", "DELETE"):
        reply = await client.request(method, path, headers=globex)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "context_not_found")
    parts = [{"type": "image_url", "image_url": {"url": f"lookonce:{made['id']}"}}, {"type": "text", "text": "What?"}]
    chat = {"model": "lookonce-scenes", "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    assert (await client.post("/v1/chat/completions", json=chat, headers=globex)).status_code == 404
    hit = await client.post("/v1/chat/completions", json=chat, headers=acme)
    assert hit.json()["lookonce"]["cache"] == "hit"

    other = (await client.post("/v1/contexts", json={"image_url": data_url(82)}, headers=globex)).json()
    assert other["id"] != made["id"]
    assert other["description"] == made["description"]
    for headers, context, hits in ((acme, made, 1), (globex, other, 0)):
        listed = (await client.get("/v1/contexts", headers=headers)).json()
        assert [one["id"] for one in listed["data"]] == [context["id"]]
        stats = (await client.get("/v1/contexts/stats", headers=headers)).json()
        assert (stats["contexts"], stats["hits"]) == (1, hits)
