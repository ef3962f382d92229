#!/usr/bin/env python3
"""Start and stop the private servers that some tests need, on free loopback ports, with all their data under .svc/.

    python scripts/services.py start redis rabbitmq   # prints one UMBEL_TEST_NAME=URL a line
    python scripts/services.py run redis -- COMMAND   # around one command, with the URLs in its environment
    python scripts/services.py stop                   # stops what runs and removes its data

A missing server is installed with apt-get where that is possible (Debian, as root or by a sudo that asks nothing).
Where it is not, `run` names it and goes on without, so that its tests are skipped; with CI=true that is an error.
Needs nothing but the standard library.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

HOME = Path(__file__).resolve().parent.parent / ".svc"
DEADLINE = 60.0  # seconds for a server to answer, and for one to end
TRIES = 3  # starts of one server
POLICY = Path("/usr/sbin/policy-rc.d")


class ServiceError(Exception):
    """Say which server could not be had, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to run one server in *folder*, written for the ports it was given."""

    command: Sequence[str]
    url: str
    port: int  # where it must answer
    before: Sequence[Sequence[str]] = ()  # commands that prepare the folder
    after: Sequence[Sequence[str]] = ()  # commands that clean up when it has ended
    files: dict[str, str] = field(default_factory=dict)  # name in the folder: text
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None  # whom root must become; the folder is theirs


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a server is, wherever it runs."""

    package: str  # Debian's name
    program: str  # glob of a file that exists when the package is installed
    plan: Callable[[Path, str, list[int]], Plan]  # of folder, program and three free ports
    hello: bytes = b""  # what to say to it
    answer: bytes  # what its reply contains once it is ready
    ending: signal.Signals = signal.SIGTERM


def _redis(folder: Path, program: str, ports: list[int]) -> Plan:
    command = [program, "--port", str(ports[0]), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Plan(
        command=[*command, "--dir", str(folder)],
        url=f"redis://127.0.0.1:{ports[0]}/0",
        port=ports[0],
    )


VHOSTS = ("/", "test-0", "test-1", "interop")
# Virtual hosts of which a test has one for itself, and a user who may do nothing but look at queues.
_RABBITMQ = {
    "vhosts": [{"name": name} for name in VHOSTS],
    "users": [
        {"name": "guest", "password": "guest", "tags": "administrator"},
        {"name": "narrow", "password": "narrow", "tags": ""},
    ],
    "permissions": [
        *(
            {"user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}
            for name in VHOSTS
        ),
        {"user": "narrow", "vhost": "/", "configure": "^$", "write": "^$", "read": ".*"},
    ],
}


def _rabbitmq(folder: Path, program: str, ports: list[int]) -> Plan:
    port, distribution, epmd = ports
    return Plan(
        command=[program],
        url=f"amqp://guest:guest@127.0.0.1:{port}//",
        port=port,
        files={
            # The consumer timeout is short so that a test can outlast it; the tick decides how soon it is noticed.
            "rabbitmq.conf": f"listeners.tcp.1 = 127.0.0.1:{port}\nconsumer_timeout = 10000\nlog.console = true\n"
            f"load_definitions = {folder / 'definitions.json'}\n",
            "definitions.json": json.dumps(_RABBITMQ),
            "advanced.config": "[{rabbit,[{channel_tick_interval,2000}]}].\n",
            "enabled_plugins": "[].\n",
        },
        environment={
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "db"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_NODENAME": "umbel@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Idle schedulers must sleep, not spin: two cores are all there is.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        },
        after=[["epmd", "-port", str(epmd), "-kill"]],
    )


def _postgresql(folder: Path, program: str, ports: list[int]) -> Plan:
    data = str(folder / "data")
    options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
    return Plan(
        before=[[str(Path(program).with_name("initdb")), "-D", data, "-A", "trust", "-U", "umbel", "--no-sync"]],
        command=[program, "-D", data, "-p", str(ports[0]), *(word for option in options for word in ("-c", option))],
        url=f"postgresql://umbel@127.0.0.1:{ports[0]}/postgres",
        port=ports[0],
        user="postgres",  # it refuses to run as root
    )


def _mariadb(folder: Path, program: str, ports: list[int]) -> Plan:
    user = f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', 'mysql')}"
    where = ["--no-defaults", user, f"--datadir={folder / 'data'}"]  # the defaults point at the system's own data
    return Plan(
        before=[["mariadb-install-db", *where, "--auth-root-authentication-method=normal", "--skip-test-db"]],
        command=[
            *(program, *where, f"--port={ports[0]}", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=32M"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--innodb-doublewrite=0"),
            *(f"--socket={folder / 's'}", f"--pid-file={folder / 'mariadb.pid'}", f"--init-file={folder / 'init'}"),
        ],
        files={"init": "CREATE DATABASE IF NOT EXISTS umbel;\n"},
        url=f"mysql+pymysql://root@127.0.0.1:{ports[0]}/umbel",
        port=ports[0],
    )


_PG_WORDS = b"user\0umbel\0database\0postgres\0\0"

SERVICES = {
    "redis": Service(
        package="redis-server",
        program="/usr/bin/redis-server",
        plan=_redis,
        hello=b"PING\r\n",
        answer=b"+PONG",
    ),
    "rabbitmq": Service(
        package="rabbitmq-server",
        program="/usr/lib/rabbitmq/bin/rabbitmq-server",
        plan=_rabbitmq,
        hello=b"AMQP\x00\x00\x09\x01",
        answer=b"RabbitMQ",
    ),
    "postgresql": Service(
        package="postgresql",
        program="/usr/lib/postgresql/*/bin/postgres",
        plan=_postgresql,
        hello=struct.pack(">ii", 8 + len(_PG_WORDS), 196608) + _PG_WORDS,  # version 3.0 and who we are
        answer=b"server_version",
        ending=signal.SIGINT,  # the fast shutdown
    ),
    "mariadb": Service(
        package="mariadb-server",
        program="/usr/sbin/mariadbd",
        plan=_mariadb,
        answer=b"MariaDB",
    ),
}


class MissingError(ServiceError):
    """Say that a server is not installed and cannot be."""


def start(name: str) -> str:
    """Start server *name* unless it runs already; return its URL when it answers."""
    HOME.mkdir(exist_ok=True)
    with (HOME / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that start it at once get one server
        return running(name) or _start_somewhere(name)


def _start_somewhere(name: str) -> str:
    program = _program(name)
    for attempt in range(TRIES):
        try:
            return _start(name, program)
        except ServiceError as problem:  # somebody may have taken a port since we saw it free
            stop(name)
            if attempt == TRIES - 1:
                raise
            print(f"services: {problem}\nservices: trying {name} again on other ports", file=sys.stderr, flush=True)
    raise AssertionError


def _start(name: str, program: str) -> str:
    service, folder = SERVICES[name], HOME / name
    stop(name)  # whatever an interrupted run left
    folder.mkdir(parents=True)
    plan = service.plan(folder, program, _free_ports(3))
    for file, text in plan.files.items():
        (folder / file).write_text(text)
    become: list[str] = []
    if plan.user is not None and os.geteuid() == 0:
        shutil.chown(folder, plan.user)
        become = ["setpriv", f"--reuid={plan.user}", f"--regid={plan.user}", "--clear-groups"]

    (folder / "after").write_text("\n".join(" ".join(command) for command in plan.after))
    with (folder / "server.log").open("wb") as log:
        environment = {**os.environ, **plan.environment}
        for command in plan.before:
            if subprocess.run(
                [*become, *command], cwd=folder, env=environment, stdout=log, stderr=log, check=False
            ).returncode:
                raise ServiceError(f"{command[0]} failed; {_tail(folder)}")
        process = subprocess.Popen(
            [*become, *plan.command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "pid").write_text(str(process.pid))

    deadline = time.monotonic() + DEADLINE
    while not _answers(plan.port, service.hello, service.answer):
        if process.poll() is not None or time.monotonic() > deadline:
            state = "ended" if process.poll() is not None else f"gave no answer for {DEADLINE:.0f} s"
            _end(process.pid, service.ending)
            raise ServiceError(f"{name} {state}; {_tail(folder)}")
        time.sleep(0.1)
    (folder / "url").write_text(plan.url)  # last: whoever sees it may connect
    return plan.url


def stop(name: str) -> None:
    """Stop server *name* and remove its data; nothing happens when it does not run."""
    folder = HOME / name
    with contextlib.suppress(OSError, ValueError):
        (folder / "url").unlink(missing_ok=True)
        _end(int((folder / "pid").read_text()), SERVICES[name].ending)
    with contextlib.suppress(OSError):
        for command in (folder / "after").read_text().splitlines():
            subprocess.run(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def running(name: str) -> str | None:
    """Return the URL of server *name* when it lives and answers, else None."""
    folder = HOME / name
    try:
        os.kill(int((folder / "pid").read_text()), 0)
        url = (folder / "url").read_text()
    except (OSError, ValueError):
        return None
    answers = _answers(urlsplit(url).port or 0, SERVICES[name].hello, SERVICES[name].answer)
    return url if answers else None


def _program(name: str) -> str:
    """Return the newest installed program of server *name*, installing its package if that is possible."""
    service = SERVICES[name]
    pattern = service.program.lstrip("/")
    if not (found := sorted(Path("/").glob(pattern))):
        become = _root()
        if become is None or shutil.which("apt-get") is None:
            raise MissingError(f"{name} is not installed here, and only root may: apt-get install {service.package}")
        _install(service.package, become)
        found = sorted(Path("/").glob(pattern))
    if not found:
        raise ServiceError(f"{service.package} is installed, but there is no {service.program}")
    return str(found[-1])


def _root() -> list[str] | None:
    """Return what to say before a command that only root may run; None where we cannot become root."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    asks = sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode
    return None if asks else [str(sudo), "-n"]


def _install(package: str, become: list[str]) -> None:
    """Install a Debian package without letting it start a server on a public port."""
    print(f"services: installing {package} …", file=sys.stderr, flush=True)
    ours = not POLICY.exists()
    if ours:
        command = [*become, "sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' >{POLICY} && chmod 755 {POLICY}"]
        subprocess.run(command, check=True)
    try:
        apt = [*become, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
        install = ["install", "-y", "--no-upgrade", "--no-install-recommends", package]
        # A machine may have no lists of packages, or old ones; one mirror of several may be down. What counts is
        # whether the package can be had.
        for words in (["update"], install):
            done = subprocess.run(
                [*apt, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            text = done.stdout.decode(errors="replace")[-2000:]
            raise MissingError(f"apt-get install {package} failed:\n{text}")
    finally:
        if ours:
            subprocess.run([*become, "rm", "-f", str(POLICY)], check=False)


def _tail(folder: Path) -> str:
    log = folder / "server.log"
    return f"the end of {log}:\n{log.read_text(errors='replace')[-2000:]}"


def _free_ports(count: int) -> list[int]:
    """Return *count* ports that are free now; several trees may test at once, so none is fixed."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(port: int, hello: bytes, answer: bytes) -> bool:
    """Say whether the server at *port* replies to *hello* with something that contains *answer*."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(hello)
            received = b""
            while answer not in received:
                if not (more := connection.recv(4096)):
                    return False
                received += more
            return True
    except OSError:
        return False


def _end(pid: int, ending: signal.Signals) -> None:
    """Ask the process group *pid* to end, wait, and kill it when it does not."""
    for order, patience in ((ending, DEADLINE), (signal.SIGKILL, 5.0)):
        try:
            # PostgreSQL's postmaster must hear it alone: its children would take it as a query's cancellation.
            os.kill(pid, order) if order is signal.SIGINT else os.killpg(pid, order)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # ours when started in this run; else its parent is init
            try:
                os.killpg(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, many in (("start", "+"), ("stop", "*"), ("run", "*")):
        commands.add_parser(command).add_argument("names", nargs=many, choices=[*SERVICES, []], metavar="NAME")
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, inner = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    options = parser.parse_args(words)
    if options.command == "stop":
        for name in options.names or SERVICES:
            stop(name)
        return 0

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stopped)  # so that `finally` below stops the servers
    started: list[str] = []
    try:
        urls = {}
        for name in options.names:
            if running(name) is None:
                started.append(name)
            try:
                urls[f"UMBEL_TEST_{name.upper()}"] = start(name)
            except MissingError as problem:
                if options.command != "run" or os.environ.get("CI"):
                    raise
                print(f"services: {problem}\nservices: SKIPPED all tests of {name}", file=sys.stderr, flush=True)
        if options.command == "run":
            return _run(inner, {**os.environ, **urls})
        for key, url in urls.items():
            print(f"{key}={url}")
    except ServiceError as problem:
        print(f"services: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # stopping is not stopped
        if options.command == "run":
            for name in started:
                stop(name)
    return 0


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run *command* and return its exit code; when we are told to end, all of it ends before its servers do."""
    apart = not sys.stdin.isatty()  # a terminal's ^C reaches everybody; other signals reach only us
    with subprocess.Popen(command, env=environment, process_group=0 if apart else None) as process:
        try:
            return process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM) if apart else process.terminate()
            try:
                process.wait(DEADLINE / 6)
            except subprocess.TimeoutExpired:
                pass
            if apart:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise


def _stopped(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
