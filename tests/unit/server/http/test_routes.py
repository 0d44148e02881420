"""What holds for every route."""

import inspect

import pytest

from lookonce_server.http.routes import chat, contexts, operations

ROUTES = [route for module in (chat, contexts, operations) for route in module.router.routes]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.methods} {route.path}")
def test_no_request_waits_for_a_thread(route):
    """FastAPI calls what is no coroutine in a thread, which costs as much as all the rest of a request."""
    assert inspect.iscoroutinefunction(route.endpoint)
    assert all(inspect.iscoroutinefunction(depends.call) for depends in route.dependant.dependencies)
