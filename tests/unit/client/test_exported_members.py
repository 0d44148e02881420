"""The public names are exactly these."""

import types
from importlib.metadata import version

import lookonce


def test_all_that_is_public_is_exported():
    public = {
        name
        for name, member in vars(lookonce).items()
        if not name.startswith("_") and not isinstance(member, types.ModuleType)
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
        "AuthenticationError",
        "BadRequestError",
        "Context",
        "ContextNotFoundError",
        "ContextStats",
        "ImageSession",
        "ImageSource",
        "ImageSourceError",
        "Lookonce",
        "LookonceError",
        "NotFoundError",
        "OverloadedError",
        "ServerError",
        "__version__",
    ]


def test_the_version_is_that_of_the_distribution():
    assert lookonce.__version__ == version("lookonce")


def test_every_error_has_one_base():
    errors = [
        member for member in vars(lookonce).values() if isinstance(member, type) and issubclass(member, Exception)
    ]
    assert len(errors) == 12
    assert all(issubclass(error, lookonce.LookonceError) for error in errors)
