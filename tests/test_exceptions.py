"""Errors keep Celery's names and bases, and say whose move it is."""

import pickle
from datetime import datetime

import click
import pytest

from umbel import exceptions
from umbel.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    BrokerFull,
    BrokerLocked,
    BrokerUnavailable,
    BrokerUnusable,
    CeleryError,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    MissingExtra,
    NotRegistered,
    OperationalError,
    PublishTimeout,
    QueueNotFound,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLostError,
    wire_class,
    wire_module,
)

BASES = {
    "CeleryError": "Exception",
    "ImproperlyConfigured": "CeleryError",
    "SecurityError": "CeleryError",
    "TaskPredicate": "CeleryError",
    "Retry": "TaskPredicate",
    "Ignore": "TaskPredicate",
    "Reject": "TaskPredicate",
    "TaskError": "CeleryError",
    "QueueNotFound": "KeyError TaskError",
    "IncompleteStream": "TaskError",
    "NotRegistered": "KeyError TaskError",
    "AlreadyRegistered": "TaskError",
    "TimeoutError": "TaskError",
    "MaxRetriesExceededError": "TaskError",
    "TaskRevokedError": "TaskError",
    "InvalidTaskError": "TaskError",
    "ChordError": "TaskError",
    "BackendError": "Exception",
    "BackendGetMetaError": "BackendError",
    "BackendStoreError": "BackendError",
    "WorkerShutdown": "SystemExit",
    "WorkerTerminate": "SystemExit",
    "CeleryWarning": "UserWarning",
    "AlwaysEagerIgnored": "CeleryWarning",
    "DuplicateNodenameWarning": "CeleryWarning",
    "DuplicateTaskNameWarning": "CeleryWarning",
    "FixupWarning": "CeleryWarning",
    "NotConfigured": "CeleryWarning",
    "SecurityWarning": "CeleryWarning",
    "CDeprecationWarning": "DeprecationWarning",
    "CPendingDeprecationWarning": "PendingDeprecationWarning",
    "CeleryCommandException": "ClickException",
}


@pytest.mark.row(*(f"API-{number}" for number in [*range(386, 406), *range(408, 414)]))
@pytest.mark.parametrize(("name", "bases"), BASES.items())
def test_each_class_has_celerys_bases(name, bases):
    assert " ".join(base.__name__ for base in getattr(exceptions, name).__bases__) == bases


@pytest.mark.row("API-406", "API-407")
@pytest.mark.parametrize("name", ["OperationalError", "SoftTimeLimitExceeded", "TimeLimitExceeded", "WorkerLostError"])
def test_what_celery_takes_from_its_libraries_is_no_celery_error_here_either(name):
    assert not issubclass(getattr(exceptions, name), CeleryError)


@pytest.mark.row("API-390", "API-409")
def test_two_classes_have_an_alias():
    assert exceptions.RetryTaskError is Retry
    assert exceptions.SystemTerminate is exceptions.WorkerTerminate


@pytest.mark.row("API-413")
def test_the_error_of_a_command_is_one_that_click_shows():
    error = exceptions.CeleryCommandException("no nodes replied", exit_code=69)

    assert isinstance(error, click.ClickException)
    assert (error.format_message(), error.exit_code) == ("no nodes replied", 69)


def test_every_public_name_exists():
    assert [name for name in exceptions.__all__ if not hasattr(exceptions, name)] == []
    with pytest.raises(AttributeError, match="no_such"):
        exceptions.no_such  # noqa: B018


@pytest.mark.row("API-390")
class TestRetry:
    @pytest.mark.parametrize(
        ("retry", "text"),
        [
            (Retry(exc=ValueError("x"), when=3), "Retry in 3s: ValueError('x')"),
            (Retry(exc="ValueError('x')", when=3.5), "Retry in 3.5s: ValueError('x')"),
            (Retry(when=datetime(2026, 1, 2)), "Retry at 2026-01-02 00:00:00"),
            (Retry("come back", ValueError("x"), 3), "come back"),
        ],
    )
    def test_its_text_says_when_and_why(self, retry, text):
        assert str(retry) == text

    def test_it_carries_the_exception_or_only_its_text(self):
        error = ValueError("x")

        assert (Retry(exc=error).exc, Retry(exc=error).excs) == (error, "ValueError('x')")
        assert (Retry(exc="boom").exc, Retry(exc="boom").excs) == (None, "boom")

    def test_an_exception_whose_repr_fails_does_not_lose_the_retry(self):
        class Broken(Exception):
            def __repr__(self):
                raise RuntimeError

        assert str(Retry(exc=Broken(), when=1)) == "Retry in 1s: <Broken: its repr failed>"

    def test_it_survives_pickling(self):
        retry = pickle.loads(pickle.dumps(Retry("m", ValueError("x"), 3)))

        assert (retry.message, retry.excs, retry.when) == ("m", "ValueError('x')", 3)


@pytest.mark.row("API-392")
def test_reject_says_whether_the_message_goes_back():
    reject = Reject("no room", requeue=True)

    assert (reject.reason, reject.requeue, repr(reject)) == ("no room", True, "reject requeue=True: no room")
    assert Reject().requeue is False


@pytest.mark.row("API-396")
def test_a_task_that_is_not_registered_is_named_with_what_to_do():
    error = NotRegistered("proj.add")

    assert "'proj.add'" in repr(error)
    assert "'proj.add'" in str(error)
    assert "include" in str(error)
    assert error.args == ("proj.add",)
    assert str(NotRegistered("proj.add", "look here")) == "look here"


@pytest.mark.row("API-394")
def test_a_missing_queue_is_told_as_a_sentence_and_not_as_a_key():
    assert str(QueueNotFound("Queue 'x' missing from task_queues")) == "Queue 'x' missing from task_queues"


@pytest.mark.row("API-399")
def test_exhausted_retries_know_the_call():
    error = MaxRetriesExceededError("enough", task_args=(1,), task_kwargs={"a": 2})

    assert (error.args, error.task_args, error.task_kwargs) == (("enough",), (1,), {"a": 2})


@pytest.mark.row("API-404", "API-405")
@pytest.mark.parametrize(
    "error", [BackendGetMetaError("down", task_id="t1"), BackendStoreError("down", task_id="t1", state="SUCCESS")]
)
def test_a_backend_error_names_its_task_and_survives_pickling(error):
    again = pickle.loads(pickle.dumps(error))

    assert again.__dict__ == error.__dict__
    assert "task_id:t1" in repr(again)


@pytest.mark.row("API-407")
def test_a_limit_shows_itself_even_without_a_message():
    assert str(SoftTimeLimitExceeded()) == "SoftTimeLimitExceeded()"
    assert str(TimeLimitExceeded(10)) == "TimeLimitExceeded(10,)"


def test_a_missing_extra_gives_the_command_that_installs_it():
    error = MissingExtra("the redis broker", "redis")

    assert isinstance(error, ImproperlyConfigured)
    assert str(pickle.loads(pickle.dumps(error))) == (
        "the redis broker needs an optional dependency; run: pip install 'umbel[redis]'"
    )


@pytest.mark.parametrize("cls", [BrokerUnavailable, BrokerFull, BrokerLocked, BrokerUnusable, PublishTimeout])
def test_every_trouble_with_the_broker_is_an_operational_error(cls):
    assert issubclass(cls, OperationalError)


@pytest.mark.row("ALB-06")
@pytest.mark.parametrize(
    ("cls", "module"),
    [
        (Retry, "celery.exceptions"),
        (NotRegistered, "celery.exceptions"),
        (SoftTimeLimitExceeded, "billiard.exceptions"),
        (WorkerLostError, "billiard.exceptions"),
        (OperationalError, "kombu.exceptions"),
        (BrokerFull, "umbel.exceptions"),
        (ValueError, "builtins"),
    ],
)
def test_on_the_wire_a_class_has_the_module_that_peers_know(cls, module):
    assert wire_module(cls) == module


@pytest.mark.row("ALB-06")
@pytest.mark.parametrize("name", [name for name in exceptions.__all__ if isinstance(getattr(exceptions, name), type)])
def test_what_goes_out_comes_in_as_the_same_class(name):
    cls = getattr(exceptions, name)
    if issubclass(cls, click.ClickException):
        pytest.skip("never on the wire")

    assert wire_class(wire_module(cls), cls.__name__) is cls


@pytest.mark.row("ALB-06")
def test_names_that_are_not_ours_are_left_to_the_reader():
    assert wire_class("celery.exceptions", "NoSuchError") is None
    assert wire_class("umbel.exceptions", "wire_class") is None
    assert wire_class("builtins", "ValueError") is None
    assert wire_class(None, "Retry") is None
