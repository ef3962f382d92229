"""What the words behind ``umbel worker`` mean."""

import os
import warnings

import pytest

import umbel.cli.worker as cli_worker
from umbel.exceptions import SecurityWarning


@pytest.fixture
def made(monkeypatch):
    """The workers that would have been started, with what they were given."""
    made = []

    class Recording:
        def __init__(self, app, on_ready, **options):
            self.app, self.options = app, options
            made.append(self)

        restarts = False

        def start(self):
            return 0

    monkeypatch.setattr(cli_worker, "Worker", Recording)
    monkeypatch.setattr(cli_worker, "banner", lambda *_, **__: "(banner)")
    monkeypatch.setattr(cli_worker, "_set_up_logging", lambda *_: None)
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    monkeypatch.setattr(cli_worker.warnings, "warn_explicit", lambda *_: None)
    return made


@pytest.mark.row(
    "CLI-027", "CLI-030", "CLI-032", "CLI-034", "CLI-035", "CLI-037", "CLI-038", "CLI-039", "CLI-040", "CLI-042",
    "CLI-043", "CLI-044", "CLI-046", "CLI-047", "CLI-048", "CLI-049", "CLI-050",
)  # fmt: skip
def test_options_are_given_to_the_worker(umbel, hello, made):
    ran = umbel(
        "worker", "-n", "w1@%h", "-l", "info", "-c", "3", "-P", "threads", "--processes", "2", "-Q", "a,b", "-X", "b",
        "--prefetch-multiplier", "2", "--time-limit", "9.5", "--soft-time-limit", "9", "--max-tasks-per-child", "7",
        "--max-memory-per-child", "9000", "--discard", "-E", "--heartbeat-interval", "7", "--http", ":9100",
        "--without-mingle", "--without-gossip", "--autoscale", "3,10", "-O", "fair",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert made[0].options == {
        "hostname": f"w1@{os.uname().nodename}",
        "loglevel": "INFO",
        "concurrency": 3,
        "autoscale": (10, 3),
        "pool": "threads",
        "processes": 2,
        "queues": "a,b",
        "exclude_queues": "b",
        "prefetch_multiplier": 2,
        "time_limit": 9.5,
        "soft_time_limit": 9.0,
        "max_tasks_per_child": 7,
        "max_memory_per_child": 9000,
        "purge": True,
        "task_events": True,
        "http": ":9100",
        "without_heartbeat": False,
        "heartbeat_interval": 7.0,
    }


@pytest.mark.row("CLI-027", "CLI-120")
@pytest.mark.parametrize(("given", "node"), [("w1", "celery@w1"), ("w1@", "w1@{host}"), ("%n@%h", "{label}@{host}")])
def test_what_a_node_name_lacks_is_filled_in(umbel, hello, made, given, node):
    umbel("worker", "-n", given)

    host = os.uname().nodename
    assert made[0].options["hostname"] == node.format(host=host, label=host.partition(".")[0])


@pytest.mark.row("CLI-034", "CLI-035")
def test_without_options_the_settings_decide(umbel, hello, made):
    umbel("worker")
    umbel("worker", "-c", "auto", "-P", "processes")

    assert (made[0].options["concurrency"], made[0].options["pool"]) == (None, None)
    assert (made[1].options["concurrency"], made[1].options["pool"]) == ("auto", "processes")


@pytest.mark.row("CLI-054", "CLI-045")
def test_settings_stand_behind_the_options(umbel, hello, made):
    ran = umbel("worker", "-I", "more, others", "prefetch_multiplier=3", "worker.lost_wait=2", "task_acks_late=no")

    conf = made[0].app.conf
    assert ran.code == 0, ran.err
    assert (conf.worker_prefetch_multiplier, conf.worker_lost_wait, conf.task_acks_late) == (3, 2, False)
    assert conf.include == ["more", "others"]


@pytest.mark.row("CLI-008", "CLI-060")
def test_quiet_hides_the_banner(umbel, hello, made, monkeypatch):
    said = []
    monkeypatch.setattr(cli_worker.click, "echo", lambda text, **_: said.append(text))

    umbel("worker", "-q")
    umbel("-q", "worker")
    assert said == []
    umbel("worker")

    assert said == ["(banner)"]


@pytest.mark.row("CLI-020", "CLI-030", "CLI-034", "CLI-035", "CLI-054")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-c", "many"), "'many' is neither a number of tasks nor auto"),
        (("-c", "-1"), "'-1' is neither"),
        (("-l", "loud"), "'loud'"),
        (("-P", "preforc"), "'preforc' is no pool; choose one of prefork, threads, asyncio, gevent, eventlet, solo"),
        (("--autoscale=many",), "'many' is not of the form MAX,MIN or MAX"),
        (("--autoscale", "0"), "'0' is not of the form MAX,MIN or MAX"),
        (("-O", "quick"), "'quick'"),
        (("--pool-start-method=spawn",), "'spawn'"),
        (("--quiett",), "--quiet"),
        (("prefetch_multiplyer=3",), "did you mean 'worker_prefetch_multiplier'?"),
        (("prefetch_multiplier=many",), "is no int"),
        (("somewhere",), "expected 'key=value'"),
        (("-n", "%x"), "%x"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_message(umbel, hello, made, words, said):
    ran = umbel("worker", *words)

    assert (ran.code, ran.out, made) == (2, "", [])
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.row("CLI-043")
def test_an_unknown_queue_is_refused_when_queues_are_not_made(umbel, hello, monkeypatch):
    monkeypatch.setattr(cli_worker.warnings, "warn_explicit", lambda *_: None)
    ran = umbel("worker", "-Q", "sales", "task_create_missing_queues=no")

    assert ran.code == 2
    assert "there is no queue 'sales', and 'task_create_missing_queues' is off. Known are: celery." in ran.err


def test_a_missing_module_of_tasks_is_one_sentence(umbel, hello, monkeypatch):
    monkeypatch.setattr(cli_worker.warnings, "warn_explicit", lambda *_: None)
    ran = umbel("worker", "-I", "no_such_tasks")

    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "no_such_tasks" in ran.err


@pytest.mark.row("CLI-063", "CLI-018", "CFG-251")
def test_root_is_warned_and_with_pickles_refused(umbel, hello, made, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(hello)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)

    with pytest.warns(SecurityWarning, match="runs as root"):
        cli_worker._check_user(["json"])
    with pytest.raises(cli_worker.CannotStart, match="C_FORCE_ROOT"):
        cli_worker._check_user(["json", "pickle"])
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    with pytest.warns(SecurityWarning):
        cli_worker._check_user(["pickle"])
    for name in ("getuid", "geteuid", "getgid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cli_worker._check_user(["pickle"])


def test_reload_without_watchfiles_names_what_to_install(umbel, hello, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)

    ran = umbel("worker", "--reload")

    assert ran.code == 2
    assert ran.err == "Error: --reload needs an optional dependency; run: pip install 'umbel[reload]'\n"


@pytest.mark.row("CLI-029", "CLI-031", "CLI-033", "CLI-041")
def test_options_that_umbel_has_no_need_of_are_accepted(umbel, hello, made):
    ran = umbel(
        "worker", "-S", "state.db", "-O", "fair", "--pool-start-method", "fork", "--disable-prefetch",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert made[0].app.conf.worker_disable_prefetch is True
    assert not {"statedb", "optimization", "pool_start_method"} & made[0].options.keys()
