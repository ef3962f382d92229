"""Tell and hear what happens in a cluster: events, who sends them, who receives them, what they add up to."""

from umbel.events.dispatcher import EventDispatcher
from umbel.events.event import Event, event_exchange, get_exchange, group_from
from umbel.events.receiver import EventReceiver
from umbel.events.state import State

__all__ = ["Event", "EventDispatcher", "EventReceiver", "State", "event_exchange", "get_exchange", "group_from"]
