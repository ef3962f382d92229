"""Show the live view of a cluster, and act on what is chosen in it. Needs textual."""

# mypy sees textual as Any, whether it is installed or not.
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from umbel._repr import mask_url
from umbel.cli.console import duration
from umbel.cli.top_watch import Picture, TaskRow, Watch

__all__ = ["Top"]

_COLORS: Final = {
    "SUCCESS": "green", "FAILURE": "bold red", "RETRY": "yellow", "REVOKED": "magenta", "REJECTED": "magenta",
    "STARTED": "cyan", "RECEIVED": "blue", "PENDING": "dim",
}  # fmt: skip
_DETAILS: Final = (
    "state", "name", "uuid", "args", "kwargs", "result", "exception", "runtime", "retries", "eta", "expires", "worker",
    "client", "root_id", "parent_id", "exchange", "routing_key", "traceback",
)  # fmt: skip


class _Table(DataTable):  # type: ignore[misc]  # textual is Any
    """A table whose chosen row stays chosen when others come before it."""

    def show(self, rows: dict[str, list[Any]]) -> None:
        """Replace all rows; they are named by their keys."""
        chosen = self.chosen
        at, scroll = self.cursor_row, self.scroll_y
        self.clear()
        for key, row in rows.items():
            self.add_row(*row, key=key)
        if chosen in rows:
            at = list(rows).index(chosen)
        self.move_cursor(row=min(at, max(0, len(rows) - 1)), animate=False, scroll=False)
        self.scroll_to(y=scroll, animate=False)

    @property
    def chosen(self) -> str | None:
        """The key of the chosen row."""
        if not self.row_count:
            return None
        key: str | None = self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value
        return key


class Top(App):  # type: ignore[misc]  # textual is Any
    """Workers, queues and tasks, renewed every second."""

    CSS = """
    Screen { layout: vertical; }
    #title { height: 1; background: $primary; color: $text; }
    #workers, #queues { height: auto; max-height: 6; }
    #summary { height: 1; background: $surface; }
    #tasks { height: 1fr; }
    DataTable > .datatable--header { text-style: bold; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("enter,i", "details", "Look"),
        Binding("t,r", "details", "Traceback", show=False),
        Binding("c", "revoke", "Revoke"),
        Binding("a", "again", "Again"),
        Binding("p", "pause", "Pause"),
        Binding("l", "rate", "Rate"),
        Binding("f", "failures", "Failures"),
        Binding("e", "events", "Events"),
        Binding("tab", "turn", "Tables", show=False, priority=True),
        Binding("j", "down", "Down", show=False),
        Binding("k", "up", "Up", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, watch: Watch, *, every: float = 1.0) -> None:
        """Show what *watch* sees, anew *every* so many seconds."""
        super().__init__()
        self.watch = watch
        self._every = every
        self._failures = False

    def compose(self) -> ComposeResult:
        """Make the parts, from top to bottom."""
        yield Static(id="title")
        workers, queues, tasks = (_Table(id=name, cursor_type="row") for name in ("workers", "queues", "tasks"))
        workers.add_columns("Worker", "Busy", "Done", "Load", "Heard")
        queues.add_columns("Queue", "Ready", "Later", "Held", "Oldest", "")
        tasks.add_columns("State", "Task", "Called with", "Ran", "Ago", "Worker")
        yield from (workers, queues, Static(id="summary"), tasks, Footer())

    def on_mount(self) -> None:
        """Begin."""
        self.query_one("#tasks").focus()
        self.renew()
        self.set_interval(self._every, self.renew)

    def renew(self) -> None:
        """Show how it is now."""
        picture = self.watch.picture(failures=self._failures)
        app = self.watch.app
        title = f" umbel top   {app.main or '__main__'}   {mask_url(app.shown_url(app.broker_url()))}"
        if picture.trouble:
            title = f" OUT OF DATE: {picture.trouble}"
        elif picture.silent:
            title += "   no worker tells of tasks: press e"
        self.query_one("#title").update(Text(title, no_wrap=True, overflow="ellipsis"))
        self.query_one("#summary").update(Text(_summary(picture), no_wrap=True, overflow="ellipsis"))
        self.query_one("#workers").show({each.name: _worker(each) for each in picture.workers})
        self.query_one("#queues").show({each.name: _queue(each) for each in picture.queues})
        width = max(10, self.size.width - 54)
        self.query_one("#tasks").show({each.id: _task(each, width) for each in picture.tasks})

    # -- keys

    def action_turn(self) -> None:
        """Go from the tasks to the queues, the workers, and back."""
        places = ["tasks", "queues", "workers"]
        here = getattr(self.focused, "id", None)
        there = places[(places.index(here) + 1) % len(places)] if here in places else "tasks"
        for table in self.query(f"#{there}"):  # none while something else is shown
            table.focus()

    def action_down(self) -> None:
        """Go down."""
        if isinstance(self.focused, _Table):
            self.focused.action_cursor_down()

    def action_up(self) -> None:
        """Go up."""
        if isinstance(self.focused, _Table):
            self.focused.action_cursor_up()

    def on_data_table_row_selected(self, event: Any) -> None:
        """Enter was pressed in a table."""
        if event.data_table.id == "tasks":
            self.action_details()

    def action_details(self) -> None:
        """Show all of the chosen task."""
        task = self.watch.state.tasks.get(self._chosen("tasks"))
        if task is not None:
            self.push_screen(_Details(task))

    def action_failures(self) -> None:
        """Show only what failed, or all again."""
        self._failures = not self._failures
        self.renew()

    def action_events(self) -> None:
        """Have workers tell of tasks."""
        self._act("workers tell of tasks from now on", self.watch.app.control.enable_events)

    def action_revoke(self) -> None:
        """Revoke the chosen task, and end it if it runs."""
        task_id = self._chosen("tasks")
        if task_id:
            self.revoke(task_id)

    def revoke(self, task_id: str) -> None:
        """Revoke a task, and end it if it runs."""
        self._act(f"revoked {task_id}", lambda: self.watch.app.control.revoke(task_id, terminate=True))

    def action_again(self) -> None:
        """Send the chosen task once more."""
        task_id = self._chosen("tasks")
        if task_id:
            self._act("sent again as", lambda: self.watch.again(task_id))

    def action_pause(self) -> None:
        """Pause the chosen queue, or let it go on."""
        name = self._chosen("queues")
        queue = next((each for each in self.watch.picture().queues if each.name == name), None)
        if queue is None:
            return
        control = self.watch.app.control
        change = control.resume if queue.paused else control.pause

        def act() -> None:
            change(queue.name)
            self.watch.look()

        self._act(f"queue {queue.name} {'goes on' if queue.paused else 'is paused'}", act)

    def action_rate(self) -> None:
        """Ask for a rate limit of the chosen task's kind."""
        task = self.watch.state.tasks.get(self._chosen("tasks"))
        if task is None or not task.name:
            return
        name = task.name

        def limit(rate: str | None) -> None:
            if rate:
                self._act(f"{name}: {rate}", lambda: self.watch.app.control.rate_limit(name, rate))

        self.push_screen(_Question(f"Rate limit of {name}, such as 10/m; 0 = none:"), limit)

    def _chosen(self, table: str) -> str:
        return self.query_one(f"#{table}").chosen or ""

    @work(thread=True)  # type: ignore[untyped-decorator]  # textual is Any
    def _act(self, told: str, act: Callable[[], object]) -> None:
        """Do something that may take a moment, and say how it went."""
        try:
            answer = act()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the person at the keys is told
            self.call_from_thread(self.notify, str(exc), severity="error")
        else:
            text = f"{told} {answer}" if isinstance(answer, str) else told
            self.call_from_thread(self.notify, text)
            self.call_from_thread(self.renew)


class _Details(ModalScreen):  # type: ignore[misc]  # textual is Any
    """All that is known of one task."""

    CSS = "_Details VerticalScroll { width: 100%; height: 100%; background: $surface; padding: 0 1; }"
    BINDINGS: ClassVar = [
        Binding("escape,q,enter,i", "dismiss", "Back"),
        Binding("c", "revoke", "Revoke"),
        Binding("a", "again", "Again"),
    ]

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task_shown = task

    def compose(self) -> ComposeResult:
        """Make the text, and the keys under it."""
        lines = Text()
        for name in _DETAILS:
            value = getattr(self.task_shown, name, None)
            if value is not None:
                value = value.hostname if name == "worker" else value
                lines.append(f"{name:<12}", "bold")
                lines.append(f"\n{value}\n" if name == "traceback" else f" {value}\n")
        yield VerticalScroll(Static(lines))
        yield Footer()

    def action_revoke(self) -> None:
        """Revoke it."""
        self.app.revoke(self.task_shown.uuid)

    def action_again(self) -> None:
        """Send it once more."""
        self.app._act("sent again as", lambda: self.app.watch.again(self.task_shown.uuid))


class _Question(ModalScreen):  # type: ignore[misc]  # textual is Any
    """Ask for a line of text."""

    CSS = "_Question { align: center middle; } _Question Static, _Question Input { width: 70; }"
    BINDINGS: ClassVar = [Binding("escape", "dismiss", "Back")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Make the question and the line."""
        yield Static(self._text)
        yield Input()

    def on_input_submitted(self, event: Any) -> None:
        """Give the answer back."""
        self.dismiss(event.value)


def _worker(row: Any) -> list[Any]:
    slots = "?" if row.slots is None else row.slots
    heard = "gone" if not row.alive else "now" if row.age is None or row.age < 3 else f"{row.age:.0f} s ago"
    name = Text(row.name, style="" if row.alive else "dim")
    return [name, f"{row.busy or 0}/{slots}", "" if row.done is None else str(row.done), row.load, heard]


def _queue(row: Any) -> list[Any]:
    size = row.size
    oldest = "" if size.oldest is None else duration(size.oldest)
    paused = Text("paused", style="bold yellow") if row.paused else ""
    return [row.name, str(size.ready), str(size.delayed), str(size.claimed), oldest, paused]


def _task(row: TaskRow, width: int) -> list[Any]:
    ran = "" if row.runtime is None else f"{row.runtime:.3f} s" if row.runtime < 100 else duration(row.runtime)
    called = row.args if len(row.args) <= width else row.args[: width - 1] + "…"
    name = row.name if len(row.name) <= 24 else "…" + row.name[-23:]
    state = Text(row.state, style=_COLORS.get(row.state, ""))
    return [state, name, called, ran, duration(row.age), row.worker.partition("@")[0]]


def _summary(picture: Picture) -> str:
    rates = picture.summary.rates
    mean = "" if picture.summary.mean is None else f"  mean {picture.summary.mean:.3f} s"
    moving = "  ".join(f"{kind} {rate:.1f}/s" for kind, rate in rates.items() if rate or kind != "rejected")
    return f" {moving}{mean}"
