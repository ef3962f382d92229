"""Say when something runs again: every so often, by a crontab, by the sun, or as your own class says."""

from umbel.schedules.base import BaseSchedule, maybe_schedule, schedstate, schedule
from umbel.schedules.crontab import crontab
from umbel.schedules.due import due_instants
from umbel.schedules.fields import ParseException, crontab_parser
from umbel.schedules.solar import solar

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "due_instants",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]
