"""Whatever beats and clocks do, each instant is sent once, and none that has passed is left out."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.beat.conftest import Beats

from umbel.contrib.testing.clock import VirtualClock
from umbel.schedules import crontab
from umbel.schedules.due import due_instants

BEGIN = datetime(2026, 3, 28, 23, 58, 30, tzinfo=UTC)  # an hour before clocks are changed in Berlin
SCHEDULES = {
    "interval": 7.5,
    "minutes": crontab(tz="Europe/Berlin"),
    "half past two": crontab(30, 2, tz="Europe/Berlin", dst="both"),
    "quarters": crontab("*/15", "1-3", tz="Europe/Berlin"),
}

beats = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), beats),
        st.tuples(st.just("die"), beats),
        st.tuples(st.just("wait"), st.floats(0.01, 900)),
        st.tuples(st.just("forward"), st.floats(1800, 7200)),
        st.tuples(st.just("back"), st.floats(1, 3600)),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=60, deadline=None)
def test_each_instant_is_sent_once_and_none_is_left_out(steps):
    clock = VirtualClock(BEGIN.timestamp())
    entries = {name: {"task": name, "schedule": plan} for name, plan in SCHEDULES.items()}
    world = Beats(clock, beat_schedule=entries, beat_misfire="catch_up(100000)")
    alive = [world.start() for _ in range(3)]
    alive[0].tick()
    latest = clock()
    for what, value in steps:
        match what:
            case "tick":
                alive[value].tick()
                latest = max(latest, clock())
            case "die":
                alive[value].close()
                alive[value] = world.start()
            case "wait" | "forward":
                clock.advance(value)
            case "back":
                clock._now -= value
    for beat in alive:
        beat.tick()
        beat.close()
    latest = datetime.fromtimestamp(max(latest, clock()), UTC)

    sent = world.sent()
    for name, entry in world.book.entries().items():
        instants = due_instants(entry.schedule, BEGIN, latest, limit=100_000)
        assert sent.count(name) == len(instants)
        assert entry.run.last == (instants[-1] if instants else BEGIN)
        assert entry.run.count == len(instants)
    world.broker.close()
    world.app.close()
