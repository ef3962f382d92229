import pytest

from umbel.app.queues import Broadcast, Queue, QueueDefaults, Queues, direct_queue
from umbel.exceptions import ImproperlyConfigured
from umbel.wire.message import Route
from umbel.wire.topology import Binding, Exchange, QueueSpec, match


def queues(given=None, **defaults):
    return Queues(given, QueueDefaults(**defaults))


@pytest.mark.row("API-457")
def test_without_task_queues_there_is_one_queue_called_celery():
    known = queues()

    assert list(known) == ["celery"]
    assert known["celery"].exchange == Exchange("celery")
    assert known["celery"].routing_key == "celery"
    assert known["celery"].exists_by_itself


@pytest.mark.row("CFG-127", "CFG-128", "CFG-129", "CFG-130", "CFG-131")
def test_the_default_queue_is_what_the_settings_say():
    known = queues(queue="jobs", queue_type="quorum", exchange="x", exchange_type="topic", routing_key="jobs.#")

    queue = known["jobs"]

    assert queue.exchange == Exchange("x", "topic")
    assert queue.routing_key == "jobs.#"
    assert queue.spec == QueueSpec("jobs", queue_type="quorum")


@pytest.mark.row("CFG-118", "API-456")
def test_queues_are_described_by_a_mapping():
    known = queues({"video": {"exchange": "media", "exchange_type": "topic", "binding_key": "media.video.#"}})

    queue = known["video"]

    assert queue.route == Route("media", "media.video.#")
    assert match(queue.topology, "media", "media.video.mp4") == ("video",)


@pytest.mark.row("CFG-118")
def test_queues_of_kombu_are_read_by_their_attributes():
    class ForeignExchange:
        name, type, durable, auto_delete, delivery_mode, arguments = "media", "direct", True, False, 1, None

    class ForeignQueue:
        name, exchange, routing_key = "images", ForeignExchange(), "media.image"
        queue_arguments = {"x-max-priority": 5, "x-queue-type": "quorum", "x-custom": 1}  # noqa: RUF012 - as kombu's
        durable, exclusive, auto_delete, expires, message_ttl, max_length = True, False, False, 60.0, None, 100

    queue = queues([ForeignQueue()])["images"]

    assert queue.exchange == Exchange("media")
    assert queue.delivery_mode == 1
    assert queue.spec.max_priority == 5
    assert queue.spec.queue_type == "quorum"
    assert queue.spec.expires == 60.0
    assert queue.spec.arguments == {"x-custom": 1, "x-max-length": 100}


@pytest.mark.row("CFG-118")
def test_a_queue_without_an_exchange_is_bound_to_the_default_one():
    queue = queues(["images"])["images"]

    assert queue.exchange == Exchange("celery")
    assert queue.routing_key == "images"
    assert queue.route == Route("", "images")


@pytest.mark.row("CFG-120")
def test_the_highest_priority_of_the_settings_is_for_queues_that_say_nothing():
    known = queues({"a": {}, "b": {"max_priority": 3}}, max_priority=9)

    assert (known["a"].spec.max_priority, known["b"].spec.max_priority) == (9, 3)


@pytest.mark.row("CFG-124", "API-455")
def test_an_unknown_queue_is_made_when_it_is_used():
    known = queues()

    assert known["new"].exchange == Exchange("new")
    assert known["new"].routing_key == "new"
    assert "new" in known


@pytest.mark.row("CFG-124")
def test_no_queue_is_made_when_the_settings_forbid_it():
    with pytest.raises(KeyError):
        queues(create_missing=False)["new"]


@pytest.mark.row("CFG-125", "CFG-126")
def test_queues_made_when_used_have_the_type_of_the_settings():
    queue = queues(missing_type="quorum", missing_exchange_type="topic")["new"]

    assert queue.spec.queue_type == "quorum"
    assert queue.exchange == Exchange("new", "topic")


@pytest.mark.row("CFG-125", "CFG-128")
@pytest.mark.parametrize("setting", ["queue_type", "missing_type"])
def test_a_queue_type_nobody_knows_is_an_error(setting):
    with pytest.raises(ValueError, match="must be one of classic, quorum"):
        queues(**{setting: "fast"})


def test_an_option_nobody_knows_is_an_error():
    with pytest.raises(ImproperlyConfigured, match="'q' has the unknown options \\['exchnge'\\]"):
        queues({"q": {"exchnge": "x"}})


@pytest.mark.row("API-456")
def test_a_worker_consumes_all_queues_unless_some_are_selected():
    known = queues({"a": {}, "b": {}})
    assert list(known.consume_from) == ["a", "b"]

    known.select("b, c")
    assert list(known.consume_from) == ["b", "c"]

    known.deselect(["c"])
    assert list(known.consume_from) == ["b"]

    known.select_add("d")
    assert list(known.consume_from) == ["b", "d"]


@pytest.mark.row("API-456")
def test_deselecting_leaves_the_others():
    known = queues({"a": {}, "b": {}})

    known.deselect("a")

    assert list(known.consume_from) == ["b"]


@pytest.mark.row("API-456")
def test_queues_are_shown_one_a_line():
    known = queues({"b": {"exchange": "x"}, "a": {"exchange": "x", "exchange_type": "topic"}})

    assert known.format(indent=2) == (
        "  .> a                exchange=x(topic) key=a\n  .> b                exchange=x(direct) key=b"
    )


@pytest.mark.row("API-461", "PRT-140")
def test_a_broadcast_queue_belongs_to_one_worker_and_hears_the_exchange():
    one, other = Broadcast("news"), Broadcast("news")

    assert one.name.startswith("bcast.")
    assert one.name != other.name
    assert one.spec.auto_delete
    both = one.topology.merge(other.topology)
    assert set(match(both, "news", "")) == {one.name, other.name}


@pytest.mark.row("API-461")
def test_a_broadcast_queue_is_found_by_the_name_of_its_exchange():
    news = Broadcast("news")
    known = queues([news])

    known.select(["news"])

    assert list(known.consume_from) == [news.name]


@pytest.mark.row("API-462", "PRT-139")
def test_a_workers_own_queue_is_named_after_it():
    queue = direct_queue("w1@host")

    assert queue.name == "w1@host.dq2"
    assert queue.topology.bindings == (Binding("C.dq2", "w1@host.dq2", "w1@host"),)


def test_what_must_be_declared_is_that_of_the_consumed_queues():
    known = queues({"a": {"exchange": "x"}, "b": {"exchange": "y"}})
    known.select(["a"])

    assert list(known.topology.queues) == ["a"]
    assert list(known.topology.exchanges) == ["x"]


def test_a_queue_shows_itself_as_celery_shows_it():
    shown = Queue(name="q", exchange=Exchange("q"), routing_key="q", spec=QueueSpec("q")).as_dict()

    assert shown["name"] == shown["routing_key"] == shown["exchange"]["name"] == "q"
    assert shown["exchange"]["type"] == "direct"
    assert shown["durable"] is True
