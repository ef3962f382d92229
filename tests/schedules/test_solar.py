import pickle
import sys
from datetime import UTC, datetime, timedelta

import pytest

from umbel import Umbel
from umbel.exceptions import ImproperlyConfigured
from umbel.schedules import solar

MIDSUMMER = datetime(2026, 6, 21, tzinfo=UTC)
GREENWICH = (51.48, 0.0)
EVENTS = (
    "dawn_astronomical", "dawn_nautical", "dawn_civil", "sunrise", "solar_noon", "sunset", "dusk_civil",
    "dusk_nautical", "dusk_astronomical",
)  # fmt: skip

pytest.importorskip("ephem")


@pytest.mark.row("API-359", "API-360")
def test_the_events_of_a_day_follow_each_other():
    day = datetime(2026, 3, 20, tzinfo=UTC)  # dawn and dusk are dark everywhere then
    instants = [solar(event, *GREENWICH, app=Umbel("sun", set_as_current=False)).next_after(day) for event in EVENTS]

    assert instants == sorted(instants)
    assert {each.date() for each in instants} == {day.date()}
    sunrise, noon, sunset = instants[3:6]
    assert abs(sunrise - datetime(2026, 3, 20, 6, 4, tzinfo=UTC)) < timedelta(minutes=3)
    assert abs(noon - datetime(2026, 3, 20, 12, 7, tzinfo=UTC)) < timedelta(minutes=2)
    assert abs(sunset - datetime(2026, 3, 20, 18, 13, tzinfo=UTC)) < timedelta(minutes=3)


@pytest.mark.row("API-361")
def test_beyond_the_polar_circle_the_next_sunset_may_be_months_away():
    plan = solar("sunset", 69.65, 18.96, app=Umbel("sun", set_as_current=False))

    assert plan.next_after(MIDSUMMER).month == 7


@pytest.mark.row("API-358", "API-359")
def test_a_wrong_event_or_place_is_refused():
    with pytest.raises(ValueError, match="'moonrise' is unknown; choose one of dawn_astronomical"):
        solar("moonrise", 0, 0)
    with pytest.raises(ValueError, match="latitude 91"):
        solar("sunset", 91, 0)
    with pytest.raises(ValueError, match="longitude -181"):
        solar("sunset", 0, -181)


@pytest.mark.row("API-358")
def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"umbel\[solar\]"):
        solar("sunset", 0, 0)


@pytest.mark.row("API-363", "API-364")
def test_it_is_a_value():
    plan = solar("sunset", -37.8, 144.9)

    assert repr(plan) == "<solar: sunset at latitude -37.8, longitude: 144.9>"
    assert pickle.loads(pickle.dumps(plan)) == plan == solar("sunset", -37.8, 144.9)
    assert plan != solar("sunrise", -37.8, 144.9)


def test_it_is_due_after_its_event():
    app = Umbel("sun", set_as_current=False)
    noon = solar("solar_noon", *GREENWICH, app=app).next_after(MIDSUMMER)
    plan = solar("solar_noon", *GREENWICH, nowfun=lambda: noon + timedelta(seconds=60), app=app)

    is_due, seconds = plan.is_due(MIDSUMMER)
    assert is_due
    assert seconds == pytest.approx(86340, abs=120)
    assert not plan.is_due(noon).is_due
