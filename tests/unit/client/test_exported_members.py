"""The public names are exactly these, and what blocks and what is awaited have the same."""

import inspect
import re
import subprocess
import sys
import types
from importlib.metadata import version

import pytest

import lookonce

PAIRS = [
    (lookonce.Client, lookonce.AsyncClient),
    (lookonce.ImageSession, lookonce.AsyncImageSession),
    (lookonce.ImagesSession, lookonce.AsyncImagesSession),
    (lookonce.Chat, lookonce.AsyncChat),
    (lookonce.AnswerStream, lookonce.AsyncAnswerStream),
    (lookonce.DescriptionStream, lookonce.AsyncDescriptionStream),
]
AT_ONCE = ("image", "images", "video", "chat", "stream", "describe")  # what asks nothing itself


def test_all_that_is_public_is_exported():
    public = {
        name
        for name, member in vars(lookonce).items()
        if not name.startswith("_") and not isinstance(member, types.ModuleType) and name != "TYPE_CHECKING"
    }
    assert public | {"__version__"} == set(lookonce.__all__)


def test_the_exports_are_these():
    assert lookonce.__all__ == [
        "APIConnectionError",
        "APIResponseError",
        "APIStatusError",
        "APITimeoutError",
        "Answer",
        "AnswerStream",
        "AskOptions",
        "AsyncAnswerStream",
        "AsyncChat",
        "AsyncClient",
        "AsyncDescriptionStream",
        "AsyncImageSession",
        "AsyncImagesSession",
        "AuthenticationError",
        "BadRequestError",
        "Chat",
        "Client",
        "Context",
        "ContextNotFoundError",
        "ContextOptions",
        "ContextStats",
        "ContextTokens",
        "DescriptionStream",
        "ImageOptions",
        "ImageSession",
        "ImageSource",
        "ImageSourceError",
        "ImageUsage",
        "ImagesSession",
        "LookonceError",
        "NotFoundError",
        "OverloadedError",
        "PermissionDeniedError",
        "RateLimitError",
        "Saved",
        "ServerError",
        "Turn",
        "VideoSource",
        "__version__",
    ]


def test_the_version_is_that_of_the_distribution():
    assert lookonce.__version__ == version("lookonce")
    with pytest.raises(AttributeError, match="'lookonce' has no attribute 'Lookonce'"):
        _ = lookonce.Lookonce


def test_every_error_has_one_base():
    errors = [
        member for member in vars(lookonce).values() if isinstance(member, type) and issubclass(member, Exception)
    ]
    assert len(errors) == 14
    assert all(issubclass(error, lookonce.LookonceError) for error in errors)


def members(of: type) -> dict[str, object]:
    return {name: inspect.getattr_static(of, name) for name in dir(of) if not name.startswith("_")}


def signature(of: object) -> str:
    """A function's or a property's signature, without what tells the two kinds of client apart."""
    function = of.fget if isinstance(of, property) else of
    return re.sub(r"\bAsync", "", str(inspect.signature(function)))


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS)
def test_both_clients_have_the_same_members(blocking, awaited):
    ours, theirs = members(blocking), members(awaited)
    assert ours.keys() == theirs.keys()
    assert {name: signature(one) for name, one in ours.items()} == {
        name: signature(one) for name, one in theirs.items()
    }
    assert str(inspect.signature(blocking)) == re.sub(r"\bAsync", "", str(inspect.signature(awaited)))


@pytest.mark.parametrize("awaited", [awaited for _, awaited in PAIRS])
def test_whatever_asks_the_server_is_awaited(awaited):
    functions = {name: one for name, one in members(awaited).items() if inspect.isfunction(one)}
    at_once = {
        name
        for name, one in functions.items()
        if not inspect.iscoroutinefunction(one) and not inspect.isasyncgenfunction(one)
    }
    assert at_once <= set(AT_ONCE)


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS)
def test_all_is_documented_and_nothing_twice(blocking, awaited):
    for name, one in members(awaited).items():
        if inspect.isfunction(one):
            assert len(inspect.getdoc(getattr(blocking, name)).splitlines()) >= 1
            assert len(one.__doc__.splitlines()) == 1


def test_importing_it_imports_neither_http_nor_asyncio():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import lookonce\n"
        "heavy = {'httpx2', 'asyncio', 'importlib.metadata', 'concurrent.futures', 'ssl'}\n"
        "print(sorted(heavy & (sys.modules.keys() - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
