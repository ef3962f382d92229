"""Each signal of a worker's life comes once, with its sender and arguments."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

PROGRAM = """
    import os, sys, threading
    from umbel import Umbel, signals
    from umbel.exceptions import InvalidTaskError
    from umbel.worker.worker import Worker

    app = Umbel("life", broker="sqlite:///q.db", backend="sqlite:///q.db")
    HEARD = open("heard", "a", buffering=1)
    PARENT = os.getpid()

    def tell(name, *arguments):
        def receiver(signal, sender, **named):
            missing = [each for each in arguments if each not in named]
            assert not missing, (name, missing)
            place = "parent" if os.getpid() == PARENT else "child"
            HEARD.write(f"{name} {place} {type(sender).__name__} {sender if isinstance(sender, str) else ''}\\n")
        getattr(signals, name).connect(receiver, weak=False)

    tell("celeryd_init", "instance", "conf", "options")
    tell("celeryd_after_setup", "instance", "conf")
    tell("import_modules")
    tell("worker_init")
    tell("worker_before_create_process")
    tell("worker_process_init")
    tell("worker_process_shutdown", "pid", "exitcode")
    tell("worker_ready")
    tell("worker_shutting_down", "sig", "how", "exitcode")
    tell("worker_shutdown")
    tell("task_received", "request")
    tell("task_prerun", "task_id", "task", "args", "kwargs")
    tell("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
    tell("task_success", "result")
    tell("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
    tell("task_retry", "request", "reason", "einfo")
    tell("task_revoked", "request", "terminated", "signum", "expired")
    tell("task_unknown", "message", "exc", "name", "id")
    tell("before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy")
    tell("after_task_publish", "headers", "body", "exchange", "routing_key")
    tell("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")

    @app.task(bind=True, max_retries=1, default_retry_delay=0)
    def again(self):
        raise self.retry()

    @app.task
    def fail():
        raise KeyError("no")

    @app.task
    def fine():
        return 1

    @signals.task_received.connect
    def received(request, **_):
        HEARD.write(f"request {request.task} {bool(request.id)} {request.task_name == request.name == request.task}\\n")

    if __name__ == "__main__":
        results = [task.delay() for task in (fine, fail, again)]
        app.send_task("not.known", ignore_result=True)
        revoked = fine.delay()
        app.control.revoke(revoked.id)
        expired = fine.apply_async(expires=0.001)
        HEARD.truncate(0)

        def ready(worker):
            def stop():
                for result in [*results, revoked, expired]:
                    result.get(timeout=60, propagate=False)
                os.kill(os.getpid(), 15)
            threading.Thread(target=stop, daemon=True).start()

        worker = Worker(app, hostname="w@here", pool=sys.argv[1], concurrency=1, on_ready=ready)
        assert worker.start() == 0
        app.close()
"""


@pytest.mark.row(
    "API-423", "API-430", "API-431", "API-433", "API-434", "API-435", "API-436", "API-437", "API-438", "API-441",
    "API-442", "CLI-077",
)  # fmt: skip
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_every_signal_of_a_workers_life_is_sent(pool, tmp_path):
    (tmp_path / "life.py").write_text(textwrap.dedent(PROGRAM))

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "life.py", pool],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    heard = [line.split() for line in (tmp_path / "heard").read_text().splitlines()]
    assert "failed" not in done.stderr, done.stderr
    places = {line[0]: line[1] for line in heard}
    senders = {line[0]: line[2:] for line in heard}
    child = "child" if pool == "prefork" else "parent"

    assert [line[0] for line in heard if line[0].startswith(("celeryd", "import"))] == [
        "celeryd_init", "import_modules", "celeryd_after_setup",
    ]  # fmt: skip
    assert senders["celeryd_init"] == senders["celeryd_after_setup"] == ["str", "w@here"]
    assert senders["worker_process_init"] == senders["worker_shutting_down"] == ["str", "w@here"]
    for name in ("worker_process_init", "worker_process_shutdown", "task_prerun", "task_postrun", "task_success",
                 "task_failure", "task_retry"):  # fmt: skip
        assert places[name] == child, name
    for name in ("worker_ready", "worker_shutting_down", "worker_shutdown", "task_received", "task_unknown",
                 "task_revoked"):  # fmt: skip
        assert places[name] == "parent", name
    assert senders["worker_ready"] == senders["worker_shutdown"] == senders["worker_init"] == ["Worker"]
    assert [line[0] for line in heard].count("task_revoked") == 2
    assert [line for line in heard if line[0] == "request" and line[2:] != ["True", "True"]] == []
    if pool == "prefork":
        assert "worker_before_create_process" in places
