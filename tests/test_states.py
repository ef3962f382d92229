"""States and which of two wins."""

import pytest

from umbel import states
from umbel.states import precedence, state


@pytest.mark.row("API-333")
@pytest.mark.parametrize(
    "name", ["PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED", "REJECTED", "IGNORED"]
)
def test_a_state_is_its_name(name):
    assert getattr(states, name) == name


@pytest.mark.row("API-334", "API-335", "API-336", "API-337", "API-338")
@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("READY_STATES", "SUCCESS FAILURE REVOKED"),
        ("UNREADY_STATES", "PENDING RECEIVED STARTED REJECTED RETRY"),
        ("EXCEPTION_STATES", "RETRY FAILURE REVOKED"),
        ("PROPAGATE_STATES", "FAILURE REVOKED"),
        ("ALL_STATES", "PENDING RECEIVED STARTED SUCCESS FAILURE RETRY REVOKED"),
    ],
)
def test_the_groups_of_states(group, names):
    assert getattr(states, group) == frozenset(names.split())


@pytest.mark.row("API-339")
def test_precedence_runs_from_success_to_pending_with_custom_states_behind_failure():
    order = ["SUCCESS", "FAILURE", "CUSTOM", "REVOKED", "STARTED", "RECEIVED", "REJECTED", "RETRY", "PENDING"]

    assert [precedence(name) for name in order] == list(range(9))


@pytest.mark.row("API-340")
def test_states_compare_by_precedence():
    assert state("PENDING") < state("SUCCESS")
    assert state("FAILURE") > "STARTED"
    assert state("PROGRESS") >= state("IMPORTING")
    assert state("PROGRESS") <= state("IMPORTING")
    assert not state("PROGRESS") < state("IMPORTING")


@pytest.mark.row("API-340")
def test_states_are_equal_as_text():
    assert state("SUCCESS") == "SUCCESS"
    assert state("PROGRESS") != state("IMPORTING")
    assert {state("SUCCESS")} == {"SUCCESS"}
