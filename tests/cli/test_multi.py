import os
import sys
import time

import pytest

from umbel._names import gethostname
from umbel.cli.main import main
from umbel.cli.multi import Cluster

HOST = gethostname()


def options(words):
    return {
        node.short: {key: value for key, value in node.options.items() if "file" not in key} for node in words.nodes
    }


@pytest.mark.row("CLI-131", "CLI-132")
def test_nodes_are_called_by_names_or_by_their_number():
    def named(*words):
        return [node.name for node in Cluster(words).nodes]

    assert named("a", "b") == [f"a@{HOST}", f"b@{HOST}"]
    assert named("2") == [f"celery1@{HOST}", f"celery2@{HOST}"]
    assert named("2", "--range-prefix=w", "--suffix=there") == ["w1@there", "w2@there"]
    assert named("a@there", "b@%h") == ["a@there", f"b@{HOST}"]
    assert named("a", "--prefix=x-", "--suffix=") == ["x-a"]
    assert named("a", "-n", "%N-1@%h") == [f"a-1@{HOST}"]


@pytest.mark.row("CLI-134")
def test_an_option_may_be_for_some_nodes():
    assert options(Cluster(["jerry", "elaine", "-c", "3", "-c:jerry", "10", "-E"])) == {
        "jerry": {"-c": "10", "-E": None},
        "elaine": {"-c": "3", "-E": None},
    }
    queues = options(Cluster(["5", "-Q:1-3", "images", "-Q:4,5", "data", "-Q", "default", "-l:celery2", "DEBUG"]))
    assert [queues[f"celery{i}"]["-Q"] for i in range(1, 6)] == ["images"] * 3 + ["data"] * 2
    assert queues["celery2"]["-l"] == "DEBUG"
    assert "-l" not in queues["celery1"]
    with pytest.raises(KeyError, match="no node number 6; there are 5"):
        Cluster(["5", "-c:6", "1"])
    with pytest.raises(KeyError, match="no node is called 'kramer'"):
        Cluster(["jerry", "-c:kramer", "1"])


@pytest.mark.row("CLI-133", "CLI-135", "CLI-137", "CLI-138")
def test_the_command_has_global_options_first(capsys):
    assert (
        main(["multi", "show", "w1", "-A", "proj", "-c", "3", "--config=conf", "--", "worker.prefetch_multiplier=2"])
        == 0
    )

    assert capsys.readouterr().out == (
        f"{sys.executable} -m umbel -A proj --config=conf worker --detach --pidfile=/var/run/celery/%n.pid "
        f"--logfile=/var/log/celery/%n%I.log -c 3 -n w1@{HOST} worker.prefetch_multiplier=2\n"
    )
    main(
        [
            "-A",
            "proj",
            "multi",
            "show",
            "w1",
            "--cmd=-m celery worker",
            "--append=-E",
            "--executable=py",
            "--pidfile=%N",
        ]
    )
    assert capsys.readouterr().out == (
        f"py -m celery --app=proj worker --pidfile=w1 '--logfile=/var/log/celery/%n%I.log' -n w1@{HOST} -E\n"
    ).replace("'", "")


@pytest.mark.row("CLI-130", "CLI-128", "CLI-024", "CLI-136")
def test_what_nodes_there_would_be_is_printed(capsys):
    def said(*words):
        code = main(["multi", *words])
        return code, capsys.readouterr().out

    assert said("names", "2") == (0, f"celery1@{HOST}\ncelery2@{HOST}\n")
    assert said("expand", "%n-%N-%h%I", "a") == (0, f"a-a-{HOST}\n")
    assert said("get", "b", "a", "b", "-c", "2")[1].endswith(f"-c 2 -n b@{HOST}\n")
    assert said("get", "nobody", "a") == (1, "")
    assert said("names", "a", "--quiet") == (0, "")
    assert said()[0] == 1
    assert said("dance")[0] == 1
    assert said("help")[0] == 0
    assert said("expand")[0] == 2
    assert said("start", "2", "-c:9", "1")[0] == 2


@pytest.mark.row("CLI-139", "CLI-140")
def test_what_does_not_run_is_down(capsys, tmp_path):
    assert main(["multi", "stop", "a", f"--pidfile={tmp_path}/%n.pid", "-HUP"]) == 0
    assert main(["multi", "kill", "a", f"--pidfile={tmp_path}/%n.pid"]) == 0

    assert capsys.readouterr().out == f"> a@{HOST}: DOWN\n" * 2


@pytest.mark.process
@pytest.mark.timeout(120)
@pytest.mark.row("CLI-139", "CLI-140", "CLI-028", "CLI-056", "CLI-141", "CLI-142", "CLI-023")
def test_workers_are_started_restarted_and_stopped(tmp_path, monkeypatch, capfd):
    (tmp_path / "proj.py").write_text("from umbel import Umbel\napp = Umbel('proj')\n")
    monkeypatch.chdir(tmp_path)
    files = [f"--pidfile={tmp_path}/run/%n.pid", f"--logfile={tmp_path}/log/%n.log"]
    run = tmp_path / "run"

    def pids():
        until = time.monotonic() + 60
        while len(found := {path.stem: path.read_text() for path in run.glob("*.pid")}) < 2 or "" in found.values():
            assert time.monotonic() < until, list((tmp_path / "log").iterdir())
            time.sleep(0.05)
        return {name: int(text) for name, text in found.items()}

    try:
        assert main(["multi", "start", "a", "b", "-A", "proj", "-P", "solo", "-l", "INFO", *files]) == 0
        first = pids()
        assert all(os.getsid(pid) not in {0, os.getsid(0)} for pid in first.values())
        assert (run / "a.pid").read_text() == f"{first['a']}\n"
        assert (run / "a.pid").stat().st_mode & 0o777 == 0o644
        held = ["-A", "proj", "worker", "-n", "a@here", "--detach", f"--pidfile={run}/%n.pid"]
        assert main(held) == 73

        assert main(["multi", "restart", "a", "-A", "proj", "-P", "solo", *files]) == 0
        second = pids()
        assert second["a"] != first["a"]
        assert second["b"] == first["b"]
    finally:
        code = main(["multi", "stopwait", "a", "b", *files])

    said, mistakes = capfd.readouterr()
    assert code == 0
    assert f"process {first['a']} runs already" in mistakes
    assert f"\t> a@{HOST}: OK\n" in said
    assert f"> a@{HOST}: TERM -> {first['a']}\n" in said
    assert list(run.iterdir()) == []
    assert "ready." in (tmp_path / "log" / "b.log").read_text()
