"""What is relied on in vLLM is there, part by part; a release that lacks one is refused, and the part named."""

import pytest

from lookonce_server.engines.vllm import contract
from lookonce_server.engines.vllm.connector.connector import ContextConnector
from lookonce_server.errors import ModelRefusedError

from .faults import ENTRY_POINTS


@pytest.mark.parametrize("part", contract.PARTS, ids=str)
def test_vllm_has(part):
    assert part.problem() is None


def test_the_connector_is_as_vllm_calls_it():
    assert contract.connector_problem() is None
    assert sorted(contract._CALLED) == sorted(ENTRY_POINTS)


def test_the_length_of_a_long_prompt_is_in_the_refusal():
    assert contract.length_problem() is None
    contract.check_contract()


@pytest.mark.parametrize("part", [part for part in contract.PARTS if part.attributes or part.parameters], ids=str)
def test_what_a_part_lacks_is_named(part):
    attributes, parameters = (tuple(f"{name}_of_old" for name in names) for names in (part.attributes, part.parameters))
    problem = contract.Part(part.module, part.name, attributes, parameters).problem()
    assert problem == f"{part} has no {', '.join((*attributes, *parameters))}"


def test_parts_that_are_gone_are_named_in_a_refusal():
    gone = (contract.Part("v1.moved", "Engine"), contract.Part("v1.request", "Renamed"))
    with pytest.raises(
        ModelRefusedError, match=r"This vLLM, .* vllm\.v1\.moved\.Engine: .*; vllm\.v1\.request\.Renamed: "
    ):
        contract.check_contract(gone)


def test_a_method_of_the_connector_that_is_called_otherwise_is_named(monkeypatch):
    base = ContextConnector.__mro__[1]
    monkeypatch.setattr(base, "wait_for_save", lambda self, step: None)
    assert contract.connector_problem().endswith("wait_for_save takes self, step")
    monkeypatch.delattr(base, "request_finished")
    monkeypatch.setattr(base, "wait_for_save", lambda self: None)
    assert contract.connector_problem().endswith(" has no request_finished")


def test_a_refusal_in_other_words_is_told(monkeypatch):
    monkeypatch.setattr(contract, "prompt_length", lambda message: None)
    assert "refuses a long prompt by" in contract.length_problem()
