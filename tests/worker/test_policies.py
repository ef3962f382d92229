"""What the core must know of a task is read off the task, then the settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from umbel.worker.admit import Policy
from umbel.worker.policies import policies

TASK = {
    "acks_late": None,
    "rate_limit": None,
    "reject_on_worker_lost": None,
    "soft_time_limit": None,
    "time_limit": None,
    "track_started": None,
}
CONF = {
    "task_acks_late": True,
    "task_acks_on_failure_or_timeout": True,
    "task_acks_on_failure": None,
    "task_acks_on_timeout": None,
    "task_reject_on_worker_lost": None,
    "task_default_rate_limit": None,
    "task_retry_on_worker_lost": False,
    "task_track_started": False,
    "worker_disable_rate_limits": False,
}


def the_policy(task: dict[str, Any] | None = None, conf: dict[str, Any] | None = None) -> Policy | None:
    tasks = {"app.task": SimpleNamespace(**TASK | (task or {}))}
    find = policies(tasks, SimpleNamespace(**CONF | (conf or {})), soft_limit=None, hard_limit=60.0)
    return find("app.task")


def test_without_options_a_task_follows_the_settings():
    assert the_policy() == Policy(hard_limit=60.0)


@pytest.mark.row("API-098", "API-099", "API-100", "API-101", "API-102", "CFG-033", "CFG-034", "CFG-035", "CFG-036")
@pytest.mark.row("API-089", "API-103", "CFG-037", "CFG-038", "CFG-039", "CFG-167")
@pytest.mark.parametrize(
    ("task", "conf", "expected"),
    [
        ({"acks_late": False}, {}, Policy(acks_late=False, hard_limit=60.0)),
        ({}, {"task_acks_late": False}, Policy(acks_late=False, hard_limit=60.0)),
        ({"acks_late": True}, {"task_acks_late": False}, Policy(hard_limit=60.0)),
        (
            {"acks_on_failure_or_timeout": False},
            {},
            Policy(acks_on_failure=False, acks_on_timeout=False, hard_limit=60),
        ),
        (
            {"acks_on_failure_or_timeout": False, "acks_on_timeout": True},
            {},
            Policy(acks_on_failure=False, hard_limit=60),
        ),
        ({}, {"task_acks_on_failure": False}, Policy(acks_on_failure=False, hard_limit=60.0)),
        ({"reject_on_worker_lost": False}, {}, Policy(retry_lost=False, hard_limit=60.0)),
        ({"retry_on_worker_lost": True}, {}, Policy(retry_lost=False, hard_limit=60.0)),
        ({}, {"task_retry_on_worker_lost": True}, Policy(retry_lost=False, hard_limit=60.0)),
        ({"reject_on_worker_lost": True, "retry_on_worker_lost": True}, {}, Policy(hard_limit=60.0)),
        ({"rate_limit": "30/m"}, {}, Policy(interval=2.0, hard_limit=60.0)),
        ({"rate_limit": 0}, {"task_default_rate_limit": "10/s"}, Policy(hard_limit=60.0)),
        ({}, {"task_default_rate_limit": "10/s"}, Policy(interval=0.1, hard_limit=60.0)),
        ({"rate_limit": "1/h"}, {"worker_disable_rate_limits": True}, Policy(hard_limit=60.0)),
        ({"time_limit": 5, "soft_time_limit": 3}, {}, Policy(soft_limit=3, hard_limit=5)),
        ({"track_started": True}, {}, Policy(announce=True, hard_limit=60.0)),
    ],
)
def test_a_task_s_own_option_wins_over_the_setting(task: dict[str, Any], conf: dict[str, Any], expected: Policy):
    assert the_policy(task, conf) == expected


def test_an_unknown_name_has_no_policy():
    assert policies({}, SimpleNamespace(**CONF), soft_limit=None, hard_limit=None)("nobody.knows") is None
