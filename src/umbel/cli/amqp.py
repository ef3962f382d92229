"""Speak AMQP with RabbitMQ, one method at a time."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click

from umbel.app.parts import Site, dialling
from umbel.brokers.amqp_link import ChannelClosed, Link, connect
from umbel.cli.base import Command, Group
from umbel.cli.session import CannotStart, Session
from umbel.wire.amqp import content_frames, decode_properties, encode_properties, method_frame

__all__ = ["command"]

_CHANNEL: Final = 1


class _Method(NamedTuple):
    """What is typed for a method, and where that goes among its arguments."""

    words: str  # names; behind a colon what is meant where the word is missing. Flags are yes or no
    help: str


_METHODS: Final = {
    "exchange.declare": _Method("exchange type:direct passive:no durable:no auto_delete:no", "Create an exchange."),
    "exchange.delete": _Method("exchange if_unused:no", "Delete an exchange."),
    "queue.declare": _Method("queue passive:no durable:no auto_delete:no", "Create a queue, or say what waits there."),
    "queue.bind": _Method("queue exchange routing_key", "Let a queue get what an exchange has for a routing key."),
    "queue.delete": _Method("queue if_unused:no if_empty:no", "Delete a queue."),
    "queue.purge": _Method("queue", "Drop what waits in a queue."),
    "basic.publish": _Method("message exchange routing_key mandatory:no immediate:no", "Publish a text."),
    "basic.get": _Method("queue no_ack:no", "Take a message."),
    "basic.ack": _Method("delivery_tag", "Acknowledge a message that was taken in the same session."),
}


@contextmanager
def _connected(session: Session) -> Iterator[Link]:
    app = session.app
    url = app.broker_url()
    if not url.partition("://")[0].startswith(("amqp", "pyamqp", "librabbitmq")):
        raise CannotStart(
            f"this app's broker is {app.shown_url(url)}, which does not speak AMQP: use umbel list, purge and migrate"
        )
    options = app.conf.broker_transport_options or {}
    link = connect(
        dialling(url, Site(home=app.home, memory=app.memory, options=options, conf=app.conf)), heartbeat=False
    )
    try:
        yield link
    finally:
        link.close()


@click.group("amqp", cls=Group)
def command() -> None:
    """Speak AMQP with RabbitMQ, one method at a time, or many in a repl."""


def _add(name: str, method: _Method) -> None:
    @click.pass_obj
    def run(session: Session, /, *, words: tuple[str, ...]) -> None:
        with _connected(session) as link:
            click.echo(_do(link, name, words))

    words = click.Argument(["words"], nargs=-1, metavar=_usage(method))
    command.add_command(Command(name, callback=run, params=[words], help=f"{method.help} Flags are yes or no."))


def _usage(method: _Method) -> str:
    shown = (word.partition(":") for word in method.words.split())
    return " ".join(f"[{name.upper()}]" if default else name.upper() for name, _, default in shown)


for _name, _method in _METHODS.items():
    _add(_name, _method)


@command.command("repl")
@click.pass_obj
def _repl(session: Session) -> None:
    """Read methods from the standard input, in one session; help shows them, exit ends it."""
    with _connected(session) as link:
        click.echo(f"-> connected to {link.address}.", err=True)
        for line in sys.stdin:
            name, *words = shlex.split(line) or [""]
            match name:
                case "":
                    pass
                case "exit" | "quit":
                    return
                case "help":
                    for each, method in _METHODS.items():
                        click.echo(f"{each} {_usage(method)}")
                case _:
                    try:
                        click.echo(_do(link, name, words))
                    except click.ClickException as exc:
                        click.echo(f"Error: {exc.format_message()}", err=True)


def _do(link: Link, name: str, words: Sequence[str]) -> str:
    method = _METHODS.get(name)
    if method is None:
        raise click.UsageError(f"there is no method {name!r}; there are: {', '.join(_METHODS)}")
    said = _values(name, method, words)
    try:
        return _call(link, name, said)
    except ChannelClosed as exc:
        raise click.ClickException(f"{name}: the server refuses: {exc}") from exc


def _values(name: str, method: _Method, words: Sequence[str]) -> dict[str, Any]:
    wanted = [word.partition(":") for word in method.words.split()]
    if not sum(not default for _, _, default in wanted) <= len(words) <= len(wanted):
        raise click.UsageError(f"{name} takes: {_usage(method)}")
    given = [*words, *(default for _, _, default in wanted[len(words) :])]
    flags = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    return {
        key: flags.get(word.lower(), False) if default in {"yes", "no"} else word
        for (key, _, default), word in zip(wanted, given, strict=True)
    }


def _call(link: Link, name: str, said: dict[str, Any]) -> str:
    match name:
        case "exchange.declare":
            flags = said["passive"], said["durable"], said["auto_delete"], False, False
            link.call(_CHANNEL, name, 0, said["exchange"], said["type"], *flags, {})
        case "exchange.delete":
            link.call(_CHANNEL, name, 0, said["exchange"], said["if_unused"], False)
        case "queue.declare":
            flags = said["passive"], said["durable"], False, said["auto_delete"], False
            queue, messages, consumers = link.call(_CHANNEL, name, 0, said["queue"], *flags, {}).arguments
            return f"queue:{queue} messages:{messages} consumers:{consumers}"
        case "queue.bind":
            link.call(_CHANNEL, name, 0, said["queue"], said["exchange"], said["routing_key"], False, {})
        case "queue.delete":
            answer = link.call(_CHANNEL, name, 0, said["queue"], said["if_unused"], said["if_empty"], False)
            return f"{answer.arguments[0]} messages deleted."
        case "queue.purge":
            return f"{link.call(_CHANNEL, name, 0, said['queue'], False).arguments[0]} messages deleted."
        case "basic.publish":
            link.call(_CHANNEL, "confirm.select", False)
            where = said["exchange"], said["routing_key"], said["mandatory"], said["immediate"]
            frame = method_frame(_CHANNEL, name, 0, *where)
            properties = encode_properties({"content_type": "text/plain", "delivery_mode": 2})
            link.send(frame + content_frames(_CHANNEL, properties, said["message"].encode(), link.frame_max))
            if link.wait(_CHANNEL, ("basic.ack", "basic.nack", "basic.return")).name != "basic.ack":
                raise click.ClickException("the server did not take it: no queue gets it, or there is no room")
        case "basic.get":
            answer = link.call(
                _CHANNEL, name, 0, said["queue"], said["no_ack"], answers=("basic.get-ok", "basic.get-empty")
            )
            if answer.name == "basic.get-empty":
                return "No messages in queue."
            tag, redelivered, exchange, key, left = answer.arguments
            return "\n".join((
                f"delivery_tag: {tag}", f"exchange: {exchange}", f"routing_key: {key}", f"redelivered: {redelivered}",
                f"messages left: {left}", f"properties: {decode_properties(answer.properties)}",
                f"body: {answer.body.decode(errors='backslashreplace')}",
            ))  # fmt: skip
        case _:
            link.send(method_frame(_CHANNEL, name, int(said["delivery_tag"]), False))
            link.call(_CHANNEL, "basic.qos", 0, 0, False)  # an answer: what was refused was refused before it
    return "OK."
