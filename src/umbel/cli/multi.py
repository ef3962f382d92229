"""Start, stop and restart several workers of one machine by their names."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from umbel._names import gethostname, host_format, node_format
from umbel.cli.daemon import pid_in, process_lives
from umbel.cli.session import Session

__all__ = ["Cluster", "Node", "command"]

# Options of umbel itself, which stand before the command.
_GLOBAL: Final = {
    "-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir", "-C", "--no-color", "-q",
    "--quiet", "--skip-checks",
}  # fmt: skip
_OURS: Final = {"--nosplash", "--quiet", "-q", "--verbose", "--no-color"}
_NAMING: Final = {"--prefix", "--suffix", "--range-prefix", "--cmd", "--append", "--executable", "-n", "--hostname"}
_PIDFILE: Final = "/var/run/celery/%n.pid"
_LOGFILE: Final = "/var/log/celery/%n%I.log"
_PAUSE: Final = 0.2  # seconds between looks at processes that are to end


class Node:
    """One worker: its names and its command line."""

    def __init__(self, name: str, short: str, options: Mapping[str, str | None], words: Sequence[str] = ()) -> None:
        """Take its node *name*, the *short* one it was called by, its *options* by word, and more *words*."""
        self.name = name
        self.short = short
        self.options = {"--pidfile": _PIDFILE, "--logfile": _LOGFILE, **options}
        self.words = list(words)

    def expand(self, text: str) -> str:
        """Return *text* with its formats; ``%N`` is the short name."""
        return node_format(text, self.name, N=self.short)

    @property
    def pidfile(self) -> Path:
        """Where its process id is."""
        return Path(self.expand(self.options["--pidfile"] or _PIDFILE)).expanduser()

    @property
    def pid(self) -> int | None:
        """The id of its process; None = it does not run."""
        pid = pid_in(self.pidfile)
        return pid if pid is not None and process_lives(pid) else None

    def argv(self, cmd: str, append: str) -> list[str]:
        """Return the words that start it, behind the name of a Python."""
        before: list[str] = []
        behind: list[str] = []
        for key, given in self.options.items():
            to, value = before if key in _GLOBAL else behind, given
            if value is not None and key in {"--pidfile", "--logfile"}:
                value = str(Path(value.replace("%N", self.short)).expanduser())
            to += [key] if value is None else [f"{key}={value}"] if key.startswith("--") else [key, value]
        words = shlex.split(cmd)
        at = next((i for i, word in enumerate(words) if word in {"worker", "beat"}), len(words))
        return [*words[:at], *before, *words[at:], *behind, "-n", self.name, *self.words, *shlex.split(append)]

    def prepare(self) -> None:
        """Make the folders of its files."""
        for key in ("--pidfile", "--logfile"):
            Path(self.expand(self.options[key] or "")).expanduser().parent.mkdir(parents=True, exist_ok=True)


class Cluster:
    """The nodes that one command line names."""

    def __init__(self, words: Sequence[str]) -> None:
        """Read names and options from *words*.

        Raises:
            KeyError: an option is for a node that is not named.
        """
        names, options, self.rest = _divide(words)
        naming = {key: value or "" for (key, where), value in options if where is None and key in _NAMING}
        self.cmd = naming.get("--cmd", "-m umbel worker --detach")
        self.append = naming.get("--append", "")
        self.executable = naming.get("--executable", sys.executable)
        is_range = len(names) == 1 and names[0].isdigit()
        if is_range:
            names = [f"{naming.get('--range-prefix', 'celery')}{i}" for i in range(1, int(names[0]) + 1)]
        pattern = naming.get("-n") or naming.get("--hostname")
        given: dict[str, dict[str, str | None]] = {name: {} for name in names}
        for (key, where), value in options:
            if where is None and key not in _NAMING:
                for each in given.values():
                    each[key] = value
        for (key, where), value in options:
            if where is not None:
                for name in _selected(where, names, by_number=is_range):
                    given[name][key] = value
        self.nodes = [Node(_full(name, naming, pattern), name, given[name], self.rest) for name in names]

    def words(self, node: Node) -> list[str]:
        """Return the whole command that starts *node*."""
        return [self.executable, *node.argv(self.cmd, self.append)]


def _divide(words: Sequence[str]) -> tuple[list[str], list[tuple[tuple[str, str | None], str | None]], list[str]]:
    """Return the names, the options as ``((word, for whom), value)``, and what stands behind ``--``."""
    names: list[str] = []
    options: list[tuple[tuple[str, str | None], str | None]] = []
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if word == "--":
            return names, options, list(words[i:])
        if not word.startswith("-"):
            names.append(word)
            continue
        key, is_long, value = word.partition("=")
        answer: str | None = value if is_long else None
        if not is_long and not word.startswith("--") and i < len(words) and not words[i].startswith("-"):
            answer = words[i]
            i += 1
        key, _, where = key.partition(":")
        if key not in _OURS or answer is not None:
            options.append(((key, where or None), answer))
    return names, options, []


def _selected(where: str, names: Sequence[str], *, by_number: bool) -> list[str]:
    """Return the names that *where* means: a name, numbers from 1, ranges of them, several with commas."""
    chosen: list[str] = []
    for part in where.split(","):
        found = re.fullmatch(r"(\d+)-(\d+)", part)
        if found is not None:
            numbers = range(int(found[1]), int(found[2]) + 1)
        elif part.isdigit():
            numbers = range(int(part), int(part) + 1)
        elif part in names:
            chosen.append(part)
            continue
        else:
            raise KeyError(f"no node is called {part!r}; there are {', '.join(names)}")
        for number in numbers:
            if not 1 <= number <= len(names):
                raise KeyError(f"there is no node number {number}; there are {len(names)}")
            chosen.append(names[number - 1])
    return chosen


def _full(name: str, naming: Mapping[str, str], pattern: str | None) -> str:
    if pattern:
        return node_format(pattern, f"{name}@{gethostname()}", N=name)
    if "@" in name:
        return host_format(name)
    host = naming.get("--suffix", gethostname()).strip("\"'")
    whole = f"{naming.get('--prefix', '')}{name}"
    return f"{whole}@{host}" if host else whole


# -- What can be done with them ----------------------------------------------------------------------------------------


class _Tool:
    """One run of ``umbel multi``."""

    def __init__(self, words: Sequence[str]) -> None:
        self.quiet = "--quiet" in words or "-q" in words
        self.verbose = "--verbose" in words

    def say(self, text: str, *, end: bool = True) -> None:
        if not self.quiet:
            click.echo(text, nl=end)

    def start(self, words: Sequence[str]) -> int:
        self.say("> Starting nodes...")
        cluster = Cluster(words)
        return max([self._start(cluster, node) for node in cluster.nodes], default=0)

    def _start(self, cluster: Cluster, node: Node) -> int:
        self.say(f"\t> {node.name}: ", end=False)
        words = cluster.words(node)
        if self.verbose:
            self.say(shlex.join(words), end=False)
        try:
            node.prepare()
            code = subprocess.call(words)
        except OSError as exc:
            self.say(f"FAILED: {exc.strerror}: {exc.filename}")
            return 1
        self.say("OK" if code == 0 else f"* Child terminated with exit code {code}")
        return 1 if code else 0

    def stop(self, words: Sequence[str], *, number: int | None = None, wait: bool = False) -> int:
        words, given = _signal_in(words)
        cluster = Cluster(words)
        number = number or given or signal.SIGTERM
        told = self._tell(cluster.nodes, number)
        if wait and told:
            self._wait(told)
        return 0

    def _tell(self, nodes: Iterable[Node], number: int) -> dict[int, Node]:
        """Send a signal to those that run; return them by process."""
        found = {node: node.pid for node in nodes}
        for node in (node for node, pid in found.items() if pid is None):
            self.say(f"> {node.name}: DOWN")
        running = {pid: node for node, pid in found.items() if pid is not None}
        if running:
            self.say("> Stopping nodes...")
        for pid, node in running.items():
            self.say(f"\t> {node.name}: {signal.Signals(number).name.removeprefix('SIG')} -> {pid}")
            try:
                os.kill(pid, number)
            except OSError as exc:
                self.say(f"Could not signal {node.name} ({pid}): {exc.strerror}")
        return running

    def _wait(self, running: Mapping[int, Node]) -> None:
        left = dict(running)
        count = f"{len(left)} {'node' if len(left) == 1 else 'nodes'}"
        self.say(f"> Waiting for {count} -> {', '.join(map(str, left))}...")
        while left:
            for pid in [pid for pid in left if not process_lives(pid)]:
                self.say(f"\t> {left.pop(pid).name}: OK")
            time.sleep(_PAUSE if left else 0)

    def stopwait(self, words: Sequence[str]) -> int:
        return self.stop(words, wait=True)

    def restart(self, words: Sequence[str]) -> int:
        self.stop(words, wait=True)
        words, _ = _signal_in(words)
        return self.start(words)

    def kill(self, words: Sequence[str]) -> int:
        return self.stop(words, number=signal.SIGKILL)

    def names(self, words: Sequence[str]) -> int:
        self.say("\n".join(node.name for node in Cluster(words).nodes))
        return 0

    def show(self, words: Sequence[str]) -> int:
        cluster = Cluster(words)
        self.say("\n".join(shlex.join(cluster.words(node)) for node in cluster.nodes))
        return 0

    def get(self, words: Sequence[str]) -> int:
        wanted, words = (words[0], words[1:]) if words else ("", words)
        cluster = Cluster(words)
        for node in cluster.nodes:
            if wanted in {node.name, node.short}:
                self.say(shlex.join(cluster.words(node)))
                return 0
        return 1

    def expand(self, words: Sequence[str]) -> int:
        if not words:
            raise click.UsageError("umbel multi expand TEMPLATE NODES…: no template was given")
        self.say("\n".join(node.expand(words[0]) for node in Cluster(words[1:]).nodes))
        return 0


def _signal_in(words: Sequence[str]) -> tuple[list[str], int | None]:
    """Return *words* without a signal at their end, ``-HUP`` or ``-9``, and its number."""
    last = words[-1] if words else ""
    if re.fullmatch(r"-\d+", last):
        return list(words[:-1]), int(last[1:])
    name = last.removeprefix("-").upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if re.fullmatch(r"-[A-Z]{2,}[A-Z0-9]*", last) and name in signal.Signals.__members__:
        return list(words[:-1]), signal.Signals[name]
    return list(words), None


_HELP: Final = """Usage: umbel multi COMMAND NODES... [OPTIONS]

\b
  umbel multi start w1 w2 -A proj -c 3 -c:w2 10   start two workers in the background
  umbel multi start 4 -Q:1-3 images -Q:4 data     start celery1 to celery4
  umbel multi stopwait w1 w2                      stop them, and wait until they have
  umbel multi restart w1 w2 -A proj               the same, and start them again
  umbel multi kill w1                             end it at once; its tasks run again elsewhere
  umbel multi names|show w1 w2                    print node names, or the commands that start would run
  umbel multi get w1 w1 w2                        print the command of one of them
  umbel multi expand '%n.log' w1 w2               print a template for each

Options of umbel worker may be for one node: -c:NAME, -c:2, -c:1-3,5.
Files: --pidfile and --logfile, with %n %h %d %N %i %I.
Names: --prefix, --suffix, --range-prefix, -n. Command: --cmd, --append, --executable."""

_COMMANDS: Final[Mapping[str, Callable[[_Tool, Sequence[str]], int]]] = {
    "start": _Tool.start,
    "stop": _Tool.stop,
    "stopwait": _Tool.stopwait,
    "stop_verify": _Tool.stopwait,
    "restart": _Tool.restart,
    "kill": _Tool.kill,
    "names": _Tool.names,
    "show": _Tool.show,
    "get": _Tool.get,
    "expand": _Tool.expand,
}


_FIRST: Final = {"expand", "get"}  # commands whose first word is no node


class _Multi(click.Command):
    """Leaves all options to the workers they are for."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(_HELP.replace("\b\n", "") + "\n")


@click.command(
    "multi",
    cls=_Multi,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(session: Session, /, words: tuple[str, ...]) -> int:
    """Start, stop and restart several workers by their names."""
    if not words or words[0] == "help":
        click.echo(_HELP.replace("\b\n", ""))
        return 0 if words else 1
    run = _COMMANDS.get(words[0])
    if run is None:
        click.echo(f"Invalid command {words[0]!r}; there are {', '.join(_COMMANDS)}.", err=True)
        return 1
    # Options before the word "multi" are the workers' as well.
    own = {name: session.given.get(name) for name in ("app", "broker", "result_backend", "loader", "config")}
    before = [f"--{name.replace('_', '-')}={value}" for name, value in own.items() if value is not None]
    try:
        return run(_Tool(words), [*words[1:2], *before, *words[2:]] if words[0] in _FIRST else [*before, *words[1:]])
    except KeyError as exc:
        raise click.UsageError(str(exc.args[0])) from exc
