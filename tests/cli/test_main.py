"""The command line as a whole: help, global options, mistakes."""

import importlib
import importlib.metadata
import os
import subprocess
import sys

import click
import pytest

from umbel import VERSION_BANNER, Umbel, signals
from umbel.cli.main import _COMMANDS


@pytest.mark.row("CLI-011")
def test_umbel_alone_explains_itself(umbel):
    ran = umbel()

    assert ran.code == 0
    assert all(name in ran.out for name in ("worker", "dead", "--app", "--broker"))


@pytest.mark.row("CLI-011")
@pytest.mark.parametrize("words", [("list",), ("dead",), ("list", "--help"), ("dead", "retry", "--help")])
def test_help_at_any_level(umbel, words):
    ran = umbel(*words)

    assert ran.code == 0
    assert ran.out.startswith("Usage: umbel " + words[0])


@pytest.mark.row("CLI-009")
def test_the_version(umbel):
    assert umbel("--version") == (0, f"{VERSION_BANNER}\n", "")


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_overview_says_of_a_command_what_the_command_says(name):
    module, about = _COMMANDS[name]

    command = importlib.import_module(module).command

    assert (command.name, command.help.partition("\n")[0]) == (name, about)


@pytest.mark.process
def test_the_overview_loads_no_app():
    code = "import sys; from umbel.cli.main import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"umbel.app.app", "umbel.worker.worker", "rich", "msgspec"} & set(done.stderr.split("'"))


@pytest.mark.process
@pytest.mark.row("CLI-009")
def test_umbel_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "umbel", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == f"{VERSION_BANNER}\n"


@pytest.mark.row("CLI-012", "CLI-020")
def test_a_misspelt_command_is_answered_with_the_right_one(umbel):
    ran = umbel("wroker")

    assert (ran.code, ran.out) == (2, "")
    assert "No such command 'wroker'; did you mean 'worker'?" in ran.err


@pytest.mark.row("CLI-020")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("worker", "--concurency", "3"), "--concurrency"),
        (("list", "qeues"), "did you mean 'queues'?"),
        (("dead", "show"), "Missing argument 'TASK_ID'"),
        (("--workdir", "nowhere", "report"), "nowhere"),
    ],
)
def test_a_wrong_word_is_one_message_and_exit_code_2(umbel, hello, words, said):
    ran = umbel(*words)

    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.row("CLI-001", "CLI-012")
@pytest.mark.parametrize(
    "words",
    [
        ("-A", "hello", "list", "tasks"),
        ("list", "-A", "hello", "tasks"),
        ("list", "tasks", "-A", "hello"),
        ("list", "tasks", "--app=hello:app"),
        ("-A", "nonsense", "list", "tasks", "-A", "hello"),
    ],
)
def test_the_app_is_named_before_or_behind_the_command(umbel, hello, words):
    ran = umbel(*words)

    assert ran.code == 0, ran.err
    assert "hello.hello  Greet." in ran.out


@pytest.mark.row("CLI-001")
@pytest.mark.parametrize("variable", ["APP", "CELERY_APP", "UMBEL_APP"])
def test_the_environment_names_the_app(umbel, hello, monkeypatch, variable):
    (hello / "second.py").write_text("from umbel import Umbel\napp = Umbel('second')\n")
    monkeypatch.setenv(variable, "hello")

    assert "hello.hello" in umbel("list", "tasks").out


@pytest.mark.row("CLI-007")
def test_colours_are_left_out_on_request(umbel, hello, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)

    assert "\x1b[" in umbel("-A", "hello", "list", "tasks").out
    for words in (("-C",), ("--no-color",)):
        assert "\x1b[" not in umbel(*words, "-A", "hello", "list", "tasks").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in umbel("-A", "hello", "list", "tasks").out


@pytest.mark.row("CLI-002", "CLI-003", "CLI-004", "CLI-005", "CLI-010", "CFG-260")
def test_options_reach_the_app_and_the_environment(umbel, hello):
    (hello / "settings.py").write_text("timezone = 'Europe/Berlin'\n")
    (hello / "plain.py").write_text("from umbel import Umbel\napp = Umbel('plain')\n")

    ran = umbel(
        "--config=settings", "--loader=default", "--skip-checks", "-A", "plain",
        "-b", "memory://there", "--result-backend", "memory://here", "report",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert "memory://there" in ran.out
    assert "memory://here" in ran.out
    assert "Europe/Berlin" in ran.out
    assert os.environ["CELERY_BROKER_URL"] == "memory://there"
    assert os.environ["CELERY_RESULT_BACKEND"] == "memory://here"
    assert os.environ["CELERY_LOADER"] == "default"
    assert os.environ["CELERY_CONFIG_MODULE"] == "settings"
    assert os.environ["CELERY_SKIP_CHECKS"] == "true"


@pytest.mark.row("CLI-002")
def test_a_broker_alone_makes_an_app(umbel, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER", "memory://alone")

    assert "memory://alone" in umbel("report").out


@pytest.mark.row("CLI-006")
def test_the_working_folder_is_changed_first(umbel, hello):
    inner = hello / "inner"
    inner.mkdir()
    (inner / "deep.py").write_text("from umbel import Umbel\napp = Umbel('deep')\n@app.task\ndef dig(): ...\n")

    assert "deep.dig" in umbel("list", "tasks", "--workdir", str(inner)).out


@pytest.mark.row("CLI-013")
def test_the_traceback_is_shown_when_asked_for(umbel, folder, monkeypatch):
    (folder / "broken.py").write_text("import nothing_such\n")

    plain, asked = umbel("-A", "broken", "report"), umbel("-A", "broken", "report", "--traceback")
    monkeypatch.setenv("UMBEL_TRACEBACK", "1")
    by_environment = umbel("-A", "broken", "report")

    assert "Traceback" not in plain.err
    for ran in (asked, by_environment):
        assert (ran.code, ran.out) == (2, "")
        assert 'broken.py", line 1' in ran.err
        assert ran.err.endswith(plain.err)


def test_an_unknown_broker_is_one_message_and_exit_code_2(umbel, hello):
    ran = umbel("-b", "radis://localhost", "list", "queues")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: no broker is called 'radis'")


def test_a_broker_that_cannot_be_reached_is_one_message_and_exit_code_1(umbel, hello):
    ran = umbel("-b", "sqlite:////nowhere/at/all.db", "list", "queues")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: ")
    assert "/nowhere/at/all.db" in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.row("CLI-014")
def test_an_installed_package_adds_a_command(umbel, hello, monkeypatch):
    @click.command("flower")
    @click.pass_context
    def flower(ctx):
        """Watch."""
        ctx.obj.echo(f"watching {ctx.obj.app.main}")

    _install(monkeypatch, flower=lambda: flower)

    assert "flower" in umbel("--help").out
    assert umbel("-A", "hello", "flower") == (0, "watching hello\n", "")


@pytest.mark.row("CLI-014")
def test_a_broken_plugin_breaks_only_its_own_command(umbel, hello, monkeypatch):
    def load():
        raise ImportError("no celery here")

    _install(monkeypatch, flower=load)

    assert umbel("--help").code == 0
    assert umbel("list", "tasks").code == 0
    ran = umbel("flower")
    assert ran.code == 1
    assert "'flower'" in ran.err
    assert "no celery here" in ran.err


@pytest.mark.row("CLI-015")
def test_an_app_adds_options_to_every_command(umbel, folder):
    app = Umbel("mine", broker="memory://", set_as_current=False)
    app.user_options["preload"] = [click.Option(["-Z", "--tenant"], default="all")]
    told = []

    def receive(options, app, **_):
        told.append((options, app.main))

    signals.user_preload_options.connect(receive)

    assert umbel("list", "queues", "-Z", "one", app=app).code == 0
    assert umbel("list", "queues", "--oops", app=app).code == 2
    assert told == [({"tenant": "one"}, "mine")]


@pytest.mark.row("API-056", "API-057")
def test_an_app_runs_its_own_command_line(capsys, folder):
    app = Umbel("mine", broker="memory://", set_as_current=False)

    assert app.start(["list", "bindings"]) == 0
    assert "celery" in capsys.readouterr().out
    with pytest.raises(ValueError, match="worker"):
        app.worker_main(["list"])


def _install(monkeypatch, **commands):
    class Point:
        def __init__(self, name, load):
            self.name, self.load, self.value = name, load, f"package:{name}"

    def entry_points(*, group):
        return [Point(*item) for item in commands.items()] if group == "celery.commands" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
