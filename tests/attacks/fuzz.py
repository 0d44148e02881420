"""Requests to any route, odd in any place: seeded, so that one that did harm can be sent again."""

import inspect
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute

from lookonce_server.app import ROUTERS

from ..support.pictures import picture_url, png
from ..support.server_process import MODEL, LookonceServer
from .odd_values import (
    CHARSETS,
    FILE_NAMES,
    FORM_CONTENTS,
    FORM_ENDS,
    FORM_HEADS,
    FORM_NAMES,
    HEADERS,
    LEAVES,
    METHODS,
    NUMBERS,
    QUERIES,
    SEGMENTS,
)
from .raw import Answer, RawConnection

OTHER_ROUTES = (("/openapi.json", {"GET"}), ("/playground/assets/playground.js", {"GET"}))
JSON, FORM = "application/json", "multipart/form-data; boundary=edge"
EVERYWHERE = {401, 403, 405, 408, 413, 429, 431}  # whatever is asked: who asks, how, how often, how much
NEVER_ASKED = {400, 408, 413, 431, 503}  # by connections: what is no request has no id
_INJECTED = {"request", "tenant", "body"}  # parameters of a route's function that are in no query


@dataclass(frozen=True, slots=True)
class Target:
    """A route, by one of its methods."""

    method: str
    path: str
    queries: tuple[str, ...] = ()
    body: dict[str, Any] | None = None  # that it takes, by its media types


@dataclass(slots=True)
class Sent:
    """A request and what became of it; None: the connection was closed."""

    data: bytes
    answer: Answer | None
    seconds: float


def routes() -> list[Target]:
    """All that the server has, told by its own routers."""
    found = [Target(method, path) for path, methods in OTHER_ROUTES for method in sorted(methods)]
    for route in (route for router in ROUTERS for route in router.routes):
        assert isinstance(route, APIRoute)
        asked = inspect.signature(route.endpoint).parameters
        queries = tuple(name for name in asked if name not in _INJECTED and f"{{{name}}}" not in route.path_format)
        found += [Target(method, route.path_format, queries) for method in sorted(route.methods)]
    return found


class Fuzzer:
    """Makes requests.

    Args:
        document: the server's OpenAPI document, which tells what bodies its routes take.
        key: an API key of the server.
        known: ids of what is there, at least for a while.
        seed: the same one makes the same requests.
    """

    def __init__(self, document: dict[str, Any], key: str, known: Sequence[str], seed: int) -> None:
        self._document = document
        self._key = key
        self._known = tuple(known)
        self._segments = (*SEGMENTS, *[*known] * 10)
        self._chance = random.Random(seed)
        self._targets = routes()

    def requests(self, count: int) -> Iterator[bytes]:
        """So many requests; each route has its turn."""
        for i in range(count):
            yield self._request(self._targets[i % len(self._targets)])

    def _request(self, target: Target) -> bytes:
        chance = self._chance
        method = target.method if chance.random() < 0.85 else chance.choice(METHODS)
        headers = {"host": "localhost"}
        if chance.random() < 0.8:
            headers["authorization"] = f"Bearer {self._key}"
        body = b""
        if target.method == "POST" or chance.random() < 0.1:
            kind, body = self._body(target)
            headers |= {"content-type": kind, "content-length": str(len(body))}
        for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
            name = chance.choice(tuple(HEADERS))
            headers[name] = chance.choice(HEADERS[name])
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if chance.random() < 0.03:
            lines.append(chance.choice(lines))
        first = f"{method} {self._path(target)}{self._query(target)} HTTP/1.1"
        head = "\r\n".join([first, *lines, "", ""])
        return head.encode("utf-8" if chance.random() < 0.5 else "latin-1", "replace") + body

    def _path(self, target: Target) -> str:
        chance = self._chance
        parts = target.path.split("/")
        path = "/".join(chance.choice(self._segments) if part.startswith("{") else part for part in parts)
        if "{" in target.path and "}." in target.path:  # a name with an ending, as "{number}.png"
            path = path.rpartition("/")[0] + "/" + chance.choice(self._segments) + "." + target.path.rpartition(".")[2]
        match chance.randrange(24):
            case 0:
                path += "/"
            case 1:
                path = path.replace("/", "//")
            case 2:
                path += "/" + chance.choice(self._segments)
            case 3:
                at = chance.randrange(len(path))
                path = path[:at] + chance.choice(self._segments) + path[at:]
            case 4:
                path = "".join(f"%{ord(c):02x}" if c.isascii() and chance.random() < 0.3 else c for c in path)
            case 5:
                path = chance.choice(("http://localhost", "http://[", "//", "http://", "*", "", "localhost:80")) + path
            case 6:
                path = path.upper()
        return path

    def _query(self, target: Target) -> str:
        chance = self._chance
        if chance.random() < 0.4:
            return ""
        if not target.queries or chance.random() < 0.3:
            return "?" + chance.choice(QUERIES)
        values = [
            (name, chance.choice((*NUMBERS, *self._segments))) for name in target.queries if chance.random() < 0.8
        ]
        return "?" + "&".join(f"{name}={value.replace(' ', '+')}" for name, value in values)

    def _body(self, target: Target) -> tuple[str, bytes]:
        chance = self._chance
        operation = self._document["paths"].get(target.path, {}).get("post", {})
        content = operation.get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content and (JSON not in content or chance.random() < 0.5):
            kind = FORM + chance.choice(("",) * 9 + tuple(f"; charset={charset}" for charset in CHARSETS))
            return kind, self._form(content["multipart/form-data"]["schema"])
        if chance.random() < 0.06:
            return JSON, chance.choice((b"", b"{", b"\xff\xfe{\x00}\x00", b"null", b"[]", b"0", b'"x"', bytes(99)))
        whole = self._valid(target)
        schema = content.get(JSON, {}).get("schema", {})
        text = self._spoilt(whole, schema) if chance.random() < 0.9 else json.dumps(whole)
        return JSON, text.encode("utf-8", "surrogatepass")

    def _valid(self, target: Target) -> dict[str, Any]:
        """A body that the route takes."""
        image = picture_url(7)
        if target.path == "/v1/responses":
            parts = [{"type": "input_image", "image_url": image}, {"type": "input_text", "text": "What is there?"}]
            return {"model": MODEL, "input": [{"role": "user", "content": parts}], "max_output_tokens": 2}
        if target.path == "/v1/chat/completions":
            parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What is there?"}]
            return {"model": MODEL, "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
        if target.path == "/v1/contexts" and self._chance.random() < 0.3:
            return {"file_id": self._chance.choice(self._known)}
        return {"image_url": image}

    def _spoilt(self, whole: dict[str, Any], schema: dict[str, Any]) -> str:
        """The same with odd values in some places, that it has or that the schema knows."""
        chance = self._chance
        places: list[tuple[Any, Any]] = list(_places(whole))
        odd: dict[str, str] = {}
        for i in range(chance.choice((1, 1, 1, 2, 3))):
            mark = f"@odd{i}@"
            odd[f'"{mark}"'] = chance.choice(LEAVES)
            if schema and chance.random() < 0.6:
                self._put(whole, schema, mark, 0)
            else:
                holder, name = chance.choice(places)
                if name in holder if isinstance(holder, dict) else name < len(holder):
                    holder[name] = mark
        text = json.dumps(whole)
        for mark, leaf in odd.items():
            text = text.replace(mark, leaf)
        return text

    def _put(self, whole: dict[str, Any], schema: dict[str, Any], mark: str, depth: int) -> None:
        """Set a field that the schema knows, at any depth, to the mark."""
        chance = self._chance
        known = self._resolved(schema).get("properties", {})
        if not known:
            return
        name = chance.choice(tuple(known))
        within = [one for one in self._branches(known[name]) if one.get("properties")]
        if within and depth < 3 and chance.random() < 0.7:
            inner = whole.get(name)
            whole[name] = inner if isinstance(inner, dict) else {}
            chosen = chance.choice(within)
            if "type" in chosen["properties"] and "const" in chosen["properties"]["type"]:
                whole[name]["type"] = chosen["properties"]["type"]["const"]
            self._put(whole[name], chosen, mark, depth + 1)
        else:
            whole[name] = mark

    def _branches(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        schema = self._resolved(schema)
        inner = schema.get("anyOf", schema.get("oneOf"))
        return [one for branch in inner for one in self._branches(branch)] if inner else [schema]

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            found: Any = self._document
            for step in schema["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            schema = found
        return schema

    def _form(self, schema: dict[str, Any]) -> bytes:
        chance = self._chance
        file = "file" if "file" in schema["properties"] else "image"
        names = [*schema["properties"], file, file, *FORM_NAMES]
        contents = (png(7), *FORM_CONTENTS, *map(str.encode, NUMBERS), b"vision", b"created_at")
        parts = b""
        for _ in range(chance.choice((0, 1, 1, 2, 3, 20))):
            name = chance.choice(names).encode("utf-8", "surrogatepass")
            head = chance.choice(FORM_HEADS) + b'name="' + name + b'"' + chance.choice(FILE_NAMES)
            parts += b"--edge\r\n" + head + b"\r\n\r\n" + chance.choice(contents) + b"\r\n"
        return parts + chance.choice(FORM_ENDS)


class Judge:
    """Holds answers against what the server documents, and against its log.

    Args:
        document: the server's OpenAPI document.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths = document["paths"]
        self._hidden = {target.path for target in routes()} - self._paths.keys()

    def faults(self, sent: Sequence[Sent], log: str) -> list[str]:
        """What is wrong, a line for each request that it is wrong with."""
        lines: dict[str, list[dict[str, Any]]] = {}
        for line in (json.loads(line) for line in log.splitlines() if line.startswith("{")):
            if line["message"] == "request":
                lines.setdefault(line["request_id"], []).append(line)
        found = ((one, self._fault(one, lines)) for one in sent)
        return [f"{why}: {one.data[:800]!r}: {one.answer}"[:1500] for one, why in found if why]

    def _fault(self, sent: Sent, lines: dict[str, list[dict[str, Any]]]) -> str | None:
        answer = sent.answer
        if answer is None:
            return "no answer"
        if answer.status >= 500 and answer.status != 503:
            return "the server failed"
        if answer.status >= 400 and answer.body and not _is_error(answer):
            return "no error of OpenAI's shape"
        if "x-request-id" not in answer.headers:
            return None if answer.status in NEVER_ASKED else "no request id"
        logged = lines.get(answer.headers["x-request-id"], [])
        if [line["status"] for line in logged] != [answer.status]:
            return f"logged as {logged}"
        expected = self._statuses(logged[0]["route"], logged[0]["method"])
        return None if answer.status in expected | EVERYWHERE else f"expected {sorted(expected)}"

    def _statuses(self, route: str | None, method: str) -> set[int]:
        """Those that a route may answer with, by its template as the log has it."""
        if route is None:
            return {404}
        route = re.sub(r":\w+}", "}", route)  # OpenAPI knows no types of a path's parameters
        if route in self._paths:
            documented = self._paths[route].get(method.lower(), {"responses": {}})["responses"]
            return set(map(int, documented)) or ({200} if method == "HEAD" else set())
        return {200, 304, 400, 404}  # a page, or a file of one


def _is_error(answer: Answer) -> bool:
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return error.keys() == {"message", "type", "param", "code"} and bool(error["message"])


def send(server: LookonceServer, data: bytes) -> Sent:
    """Send a request on a connection of its own, and wait for what comes."""
    begun = time.monotonic()
    with RawConnection(server.url) as connection:
        try:
            connection.send(data)
            answer = connection.answer(to_head=data.startswith(b"HEAD "))
        except (OSError, AssertionError):
            answer = None
    return Sent(data, answer, time.monotonic() - begun)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place within JSON, by what holds it and its name there."""
    for name, one in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
        yield value, name
        if isinstance(one, dict | list):
            yield from _places(one)
