import os
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from umbel import signals
from umbel._names import gethostname
from umbel.app.queues import Broadcast
from umbel.exceptions import (
    BrokerUnavailable,
    CeleryWarning,
    ContentDisallowed,
    EncodeError,
    InvalidMessage,
    OperationalError,
    PublishTimeout,
    QueueNotFound,
)
from umbel.wire.message import Route


@pytest.fixture
def add(app):
    return app.task(name="proj.add")(lambda *args, **kwargs: None)


@pytest.fixture
def prepared(app, add):
    """Return the publication of a call of proj.add with options."""
    return lambda args=(), kwargs=None, **options: app.prepare("proj.add", args, kwargs, options)


@pytest.fixture
def message(prepared):
    return lambda *args, **options: prepared(*args, **options).message


# -- Identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("PRT-003", "PRT-009", "PRT-011", "PRT-012", "PRT-015", "PRT-016", "PRT-017", "PRT-018", "PRT-019")
@pytest.mark.row("PRT-004", "PRT-007", "PRT-008", "PRT-024", "PRT-025", "PRT-027")
def test_a_plain_call_says_who_it_is(app, message):
    sent = message()

    assert sent.id == sent.root_id
    assert sent.parent_id is None
    assert sent.origin == f"gen{os.getpid()}@{gethostname()}"
    assert sent.reply_to == app.thread_oid
    assert (sent.retries, sent.ignore_result, sent.replaced_task_nesting) == (0, False, 0)
    assert (sent.shadow, sent.group, sent.group_index, sent.stamped_headers) == (None, None, None, None)
    assert sent.stamps == {}
    assert (sent.delivery_mode, sent.priority, sent.headers, sent.properties) == (2, None, {}, {})


@pytest.mark.row("API-150")
def test_identity_may_be_given(message):
    sent = message(
        task_id="t1",
        root_id="r1",
        parent_id="p1",
        reply_to="me",
        group_id="g1",
        group_index=3,
        retries=2,
        origin="gen1@other",
        replaced_task_nesting=1,
    )

    assert (sent.id, sent.root_id, sent.parent_id, sent.reply_to) == ("t1", "r1", "p1", "me")
    assert (sent.group, sent.group_index, sent.retries, sent.origin) == ("g1", 3, 2, "gen1@other")
    assert sent.replaced_task_nesting == 1


@pytest.mark.row("PRT-013", "PRT-014", "CFG-022")
def test_arguments_are_shown_as_text(app, message):
    sent = message((2, "x" * 2000), {"a": [[[["deep"]]]]})

    assert sent.argsrepr.startswith("(2, 'xxx")
    assert len(sent.argsrepr) <= 1024
    assert sent.kwargsrepr == "{'a': [[[...]]]}"

    app.conf.task_repr_maxlevels = 0
    assert message((), {"a": [[[["deep"]]]]}).kwargsrepr == "{'a': [[[['deep']]]]}"
    assert message(argsrepr="shown").argsrepr == "shown"


@pytest.mark.row("API-151", "API-135", "PRT-004")
def test_a_call_may_show_another_name(app):
    class Shy(app.Task):
        abstract = True

        def shadow_name(self, args, kwargs, options):
            return f"{self.name}:{args[0]}"

    app.task(name="shy", base=Shy)(lambda x: None)

    assert app.prepare("shy", (7,)).message.shadow == "shy:7"
    assert app.prepare("shy", (7,), options={"shadow": "told"}).message.shadow == "told"


# -- Times and limits --------------------------------------------------------------------------------------------------


@pytest.mark.row("API-138", "PRT-005")
def test_a_countdown_counts_from_now_and_wins_over_an_eta(message):
    before = datetime.now(UTC)

    sent = message(countdown=10, eta=before)

    assert timedelta(seconds=10) <= sent.eta - before < timedelta(seconds=20)
    assert message(countdown=0).eta is None


@pytest.mark.row("API-139", "API-041", "PRT-005")
def test_an_eta_is_a_moment_or_its_text(app, message):
    assert message(eta=datetime(2030, 1, 2, 3)).eta == datetime(2030, 1, 2, 3, tzinfo=UTC)
    plus_two = datetime(2030, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    assert message(eta=plus_two).eta == plus_two
    assert message(eta="2030-01-02T03:00:00+02:00").eta == plus_two

    app.conf.timezone = "Asia/Tokyo"
    assert message(eta=plus_two).eta.utcoffset() == timedelta(hours=9)


@pytest.mark.row("API-140", "PRT-006")
def test_expiry_is_seconds_a_moment_or_its_text(message):
    before = datetime.now(UTC)

    assert timedelta(seconds=60) <= message(expires=60, countdown=1000).expires - before < timedelta(seconds=70)
    assert message(expires=datetime(2030, 1, 1)).expires == datetime(2030, 1, 1, tzinfo=UTC)
    assert message(expires="2030-01-01T00:00:00Z").expires == datetime(2030, 1, 1, tzinfo=UTC)
    assert message(expires=timedelta(days=365)).expires > before + timedelta(days=364)


@pytest.mark.row("API-042", "PRT-029")
def test_who_sends_what_has_expired_is_warned(message):
    with pytest.warns(CeleryWarning, match="has passed: it will not run"):
        assert message(expires=-5).expires < datetime.now(UTC)


@pytest.mark.row("PRT-036")
@pytest.mark.parametrize("option", ["countdown", "expires"])
def test_times_far_back_are_refused(message, option):
    with pytest.raises(ValueError, match=option):
        message(**{option: -2147483649})


@pytest.mark.row("PRT-036")
def test_times_beyond_the_calendar_are_refused(message):
    with pytest.raises(ValueError, match="beyond the calendar"):
        message(countdown=1e12)


@pytest.mark.row("API-146", "API-090", "API-091", "PRT-010")
def test_limits_are_those_of_the_call_or_of_the_task(app, message):
    app.task(name="limited", time_limit=30, soft_time_limit=20)(lambda: None)

    plain, given, none = (
        app.prepare("limited", (), {}, options).message
        for options in ({}, {"time_limit": 300, "soft_time_limit": 200}, {"time_limit": None, "soft_time_limit": None})
    )

    assert (plain.hard_limit, plain.soft_limit) == (30, 20)
    assert (given.hard_limit, given.soft_limit) == (300, 200)
    assert (none.hard_limit, none.soft_limit) == (None, None)


@pytest.mark.row("API-091")
def test_a_soft_limit_above_the_hard_one_is_refused(add):
    with pytest.raises(ValueError, match="must be less than its time_limit"):
        add.apply_async(time_limit=1, soft_time_limit=2)


# -- What goes with it -------------------------------------------------------------------------------------------------


@pytest.mark.row("API-147", "API-092")
def test_a_call_may_ignore_its_result(app, add, message, work):
    assert message(ignore_result=True).ignore_result

    result = add.apply_async(ignore_result=True)
    (outcome,) = work()

    assert result.ignored
    assert result.get() is None
    assert outcome.records == ()


@pytest.mark.row("API-148", "PRT-022")
def test_a_call_may_have_headers_of_its_own(message):
    assert message(headers={"tenant": "acme"}).headers == {"tenant": "acme"}


@pytest.mark.row("API-156", "PRT-030")
def test_options_nobody_knows_are_message_properties(message):
    assert message(my_property=1, queue="q").properties == {"my_property": 1}


@pytest.mark.row("API-155", "PRT-081")
def test_stamps_are_options_whose_names_are_listed(message):
    sent = message(stamped_headers=["tenant"], tenant="acme")

    assert (sent.stamped_headers, sent.stamps, sent.properties) == (("tenant",), {"tenant": "acme"}, {})


@pytest.mark.row("API-149", "PRT-031", "PRT-032", "PRT-065", "PRT-068", "PRT-071")
def test_what_follows_travels_in_the_body(app, add, message, read):
    callback, errback = app.signature("proj.log"), app.signature("proj.report")

    sent = message((1,), link=callback, link_error=[errback], chain=[callback], chord=errback)

    args, kwargs, embed = read(sent)
    assert (args, kwargs) == ([1], {})
    plain = {"args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    log, report = {"task": "proj.log", **plain}, {"task": "proj.report", **plain}
    assert embed == {"callbacks": [log], "errbacks": [report], "chain": [log], "chord": report}
    assert read(message())[2] == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@pytest.mark.row("PRT-035")
def test_arguments_are_a_list_and_a_mapping(prepared):
    with pytest.raises(TypeError, match="must be a list or tuple, not 'ab'"):
        prepared("ab")
    with pytest.raises(TypeError, match="must be a mapping"):
        prepared((), [1])


@pytest.mark.row("API-143", "API-107", "API-463", "CFG-121", "PRT-028")
def test_priority_is_that_of_call_route_or_task(app, message):
    app.task(name="important", priority=7)(lambda: None)

    assert message().priority is None
    assert message(priority=0).priority == 0
    assert app.prepare("important").message.priority == 7
    app.conf.task_routes = {"important": {"priority": 8}}
    assert app.prepare("important").message.priority == 8
    assert app.prepare("important", options={"priority": 9}).message.priority == 9


@pytest.mark.row("CFG-122")
@pytest.mark.parametrize(("inherit", "expected"), [(True, 6), (False, None)])
def test_children_may_inherit_the_priority_of_their_parent(app, work, inherit, expected):
    app.conf.task_inherit_parent_priority = inherit
    seen = []
    parent = app.task(name="parent")(lambda: seen.append(app.prepare("proj.child").message.priority))

    parent.apply_async(priority=6)
    work()

    assert seen == [expected]


@pytest.mark.row("API-145", "CFG-132", "PRT-027")
def test_messages_are_persistent_unless_told_otherwise(app, message):
    assert message(delivery_mode=1).delivery_mode == 1
    assert message(delivery_mode="transient").delivery_mode == 1

    app.conf.task_queues = {"fleeting": {"delivery_mode": 1}}
    assert message(queue="fleeting").delivery_mode == 1

    app.conf.task_default_delivery_mode = "transient"
    assert message().delivery_mode == 1


# -- Where it goes -----------------------------------------------------------------------------------------------------


@pytest.mark.row("API-142", "API-457")
def test_a_call_goes_where_its_options_say(app, prepared):
    app.conf.task_queues = {"celery": {}, "topics": {"exchange": "t", "exchange_type": "topic", "routing_key": "a.#"}}

    assert prepared().route == Route("", "celery")
    assert prepared(queue="other").route == Route("", "other")
    assert prepared(queue="topics").route == Route("t", "a.#")
    assert prepared(queue="topics", routing_key="a.b").route == Route("t", "a.b")
    assert prepared(exchange="t", routing_key="a.c").route == Route("t", "a.c")


@pytest.mark.row("API-113")
def test_a_task_may_name_its_queue(app):
    app.task(name="placed", queue="own")(lambda: None)

    assert app.prepare("placed").route == Route("", "own")
    assert app.prepare("placed", options={"queue": "given"}).route == Route("", "given")
    app.conf.task_routes = {"placed": "routed"}
    assert app.prepare("placed").route == Route("", "routed")


@pytest.mark.row("CFG-119", "API-450", "API-453")
def test_routes_may_depend_on_the_arguments(app, prepared):
    app.conf.task_routes = [lambda name, args, kwargs, options, task=None, **_: {"queue": f"q{args[0]}"}]

    assert prepared((1,)).route == Route("", "q1")
    assert prepared((2,)).route == Route("", "q2")
    assert prepared((2,), queue="given").route == Route("", "given")


@pytest.mark.row("API-037")
def test_a_call_may_be_routed_as_another_task(app, prepared):
    app.conf.task_routes = {"proj.video": "videos"}

    assert prepared(route_name="proj.video").route == Route("", "videos")
    assert prepared().route == Route("", "celery")


def test_remembered_routes_do_not_remember_the_options_of_a_call(app, prepared):
    app.conf.task_routes = {"proj.add": {"queue": "q", "priority": 3}}

    assert prepared(priority=9).message.priority == 9
    assert prepared().message.priority == 3


@pytest.mark.row("API-455", "CFG-124")
def test_an_unknown_queue_is_an_error_where_none_may_be_made(app, add, sent):
    app.conf.task_create_missing_queues = False

    with pytest.raises(QueueNotFound, match="Queue 'othr' missing from task_queues"):
        add.apply_async(queue="othr")


@pytest.mark.row("API-459", "PRT-137", "PRT-138")
def test_a_queue_is_declared_before_it_is_published_to(app, add, sent):
    app.conf.task_queues = {
        "jobs": {"exchange": "topics", "exchange_type": "topic", "routing_key": "jobs.#"},
        "all": {"exchange": "topics", "exchange_type": "topic", "routing_key": "#"},
    }

    add.apply_async(queue="jobs", routing_key="jobs.now")
    assert (len(sent("jobs")), len(sent("all"))) == (1, 1)

    add.apply_async(exchange="topics", routing_key="other")
    assert (len(sent("jobs")), len(sent("all"))) == (0, 1)


@pytest.mark.row("API-461", "PRT-138")
def test_a_broadcast_reaches_every_worker_that_has_the_queue(app, add, sent):
    mine, yours = Broadcast("news"), Broadcast("news")
    app.conf.task_queues = [mine]
    broker = app.open_broker()
    broker.declare(mine.topology.merge(yours.topology))

    add.apply_async(queue="news")

    assert (len(sent(mine.name)), len(sent(yours.name))) == (1, 1)


# -- Handing it over ---------------------------------------------------------------------------------------------------


class Unreliable:
    """A broker that fails for a while, in front of a real one."""

    def __init__(self, broker, errors):
        self.broker = broker
        self.errors = errors

    def publish(self, publications, *, timeout):
        if self.errors:
            raise self.errors.pop(0)
        self.broker.publish(publications, timeout=timeout)

    def declare(self, topology):
        self.broker.declare(topology)

    def close(self):
        self.broker.close()


@pytest.fixture
def failing(app, monkeypatch):
    def fail_with(*errors):
        left = list(errors)
        open_broker = app.open_broker
        monkeypatch.setattr(
            app,
            "open_broker",
            lambda *, write=False: Unreliable(open_broker(write=write), left) if write else open_broker(),
        )
        return left

    return fail_with


QUICK = {"interval_start": 0, "interval_step": 0, "max_retries": 3}


@pytest.mark.row("CFG-020", "CFG-021", "API-141")
def test_sending_is_tried_again_while_the_broker_is_down(add, failing, sent):
    told = []
    failing(BrokerUnavailable("1"), BrokerUnavailable("2"))

    add.apply_async(retry_policy={**QUICK, "errback": lambda exc, pause: told.append((str(exc), pause))})

    assert told == [("1", 0), ("2", 0)]


@pytest.mark.row("API-141", "API-043")
@pytest.mark.parametrize("options", [{"retry": False}, {"retry_policy": {"max_retries": 0}}])
def test_sending_is_not_tried_again_when_told_so(add, failing, options):
    left = failing(BrokerUnavailable("1"), BrokerUnavailable("2"))

    with pytest.raises(OperationalError, match="1"):
        add.apply_async(**options)
    assert len(left) == 1


@pytest.mark.row("CFG-020")
def test_sending_may_be_tried_once_by_the_settings(app, add, failing):
    left = failing(BrokerUnavailable("1"), BrokerUnavailable("2"))
    app.conf.task_publish_retry = False

    with pytest.raises(OperationalError, match="1"):
        add.delay()
    assert len(left) == 1


@pytest.mark.row("CFG-020", "API-141")
def test_a_call_may_be_tried_again_against_the_settings(app, add, failing):
    failing(BrokerUnavailable("1"))
    app.conf.task_publish_retry = False

    assert add.apply_async(retry=True)


@pytest.mark.row("TB-125")
def test_what_may_have_been_stored_is_not_sent_again(add, failing):
    left = failing(PublishTimeout("no answer"), BrokerUnavailable("2"))

    with pytest.raises(PublishTimeout):
        add.apply_async(retry_policy=QUICK)
    assert len(left) == 1


def test_sending_ends_at_its_deadline(app, add, failing):
    failing(*[BrokerUnavailable("down")] * 100)
    app.conf.publish_timeout = 0.2

    with pytest.raises(BrokerUnavailable):
        add.apply_async(retry_policy={"max_retries": None, "interval_start": 0.15, "interval_max": 0.15})


@pytest.mark.row("API-154")
def test_a_publishers_options_are_obeyed_and_do_not_travel(app, add, sent):
    side = app.amqp.Queues({"side": {}})["side"]
    options = {"declare": [side], "mandatory": True, "immediate": False}
    add.apply_async((1, 2), **options, timeout=5.0)
    with closing(app.open_broker()) as broker:
        assert "side" in broker.sizes()
    [(message, _)] = sent()
    assert not {*options, "timeout"} & {*message.properties, *message.headers}


@pytest.mark.row("API-154")
def test_sending_ends_when_the_caller_says_so(add, failing):
    failing(*[BrokerUnavailable("down")] * 100)

    with pytest.raises(BrokerUnavailable):
        add.apply_async(
            confirm_timeout=0.2, retry_policy={"max_retries": None, "interval_start": 0.15, "interval_max": 0.15}
        )


def test_many_calls_go_in_one_exchange(app, add, sent, failing):
    calls = [add.s(i).set(task_id=str(i)) for i in range(3)]
    failing()

    app.send_calls(call_of(each) for each in calls)

    assert [message.id for message, _ in sent()] == ["0", "1", "2"]


def call_of(signature):
    from umbel.canvas.call import Call

    return Call(signature.task, signature.args, signature.kwargs, signature.options)


def test_threads_send_over_connections_of_their_own(app, add, sent):
    threads = [threading.Thread(target=lambda: [add.delay() for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({message.id for message, _ in sent()}) == 80


# -- How it travels ----------------------------------------------------------------------------------------------------


@pytest.mark.row("API-144", "API-095", "API-096", "CFG-017", "CFG-019", "PRT-020", "PRT-026", "PRT-084", "PRT-085")
def test_bodies_are_serialized_and_compressed_as_call_task_or_settings_say(app, message, read):
    app.conf.accept_content = ["json", "pickle"]
    app.task(name="pickled", serializer="pickle", compression="bzip2")(lambda x: None)

    plain = message((1,))
    pickled = app.prepare("pickled", ({1, 2},)).message
    given = app.prepare("pickled", (1,), {}, {"serializer": "json", "compression": "gzip"}).message
    app.conf.task_compression = "zlib"
    by_setting = app.prepare("unknown.task", (1,)).message

    assert (plain.content_type, plain.content_encoding, plain.compression) == ("application/json", "utf-8", None)
    assert plain.body == b'[[1], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    assert (pickled.content_type, pickled.compression) == ("application/x-python-serialize", "application/x-bz2")
    assert list(read(pickled)[0]) == [{1, 2}]
    assert (given.content_type, given.compression) == ("application/json", "application/x-gzip")
    assert by_setting.compression == "application/x-gzip"
    assert list(read(given)[0]) == list(read(by_setting)[0]) == [1]


def test_arguments_that_cannot_travel_are_refused_before_anything_is_sent(add, sent):
    with pytest.raises(EncodeError):
        add.delay(object())

    assert sent() == []


@pytest.mark.row("CFG-012")
def test_only_accepted_serializers_are_read(app, message, read):
    with pytest.raises(ContentDisallowed, match="pickle"):
        read(message((1,), serializer="pickle"))


@pytest.mark.row("PRT-046", "PRT-050")
@pytest.mark.parametrize("body", [b"[1, 2]", b'{"a": 1}', b"[1, {}, {}]", b"[[], [], {}]"])
def test_a_body_that_is_none_of_a_task_is_refused(app, message, read, body):
    with pytest.raises(InvalidMessage):
        read(msgspec.structs.replace(message(), body=body))


# -- Who listens -------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening():
    """Connect a receiver to a signal until the test ends."""
    connected = []

    def connect(signal, receiver, sender=None):
        signal.connect(receiver, sender=sender, weak=False)
        connected.append((signal, receiver, sender))

    yield connect
    for signal, receiver, sender in connected:
        signal.disconnect(receiver, sender)


@pytest.mark.row("API-420", "API-421")
def test_publishing_is_announced_and_told(add, listening, sent):
    told = []

    def tell(sender, signal, **given):
        told.append((signal.name, sender, given))

    listening(signals.before_task_publish, tell, "proj.add")
    listening(signals.after_task_publish, tell, "proj.add")
    add.apply_async((1,), {"a": 2}, task_id="t1", priority=3)

    (before, sender, about), (after, _, about_after) = told
    assert (before, after, sender) == ("before_task_publish", "after_task_publish", "proj.add")
    assert about.keys() == {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"}
    assert about["body"][:2] == ((1,), {"a": 2})
    assert (about["exchange"], about["routing_key"]) == ("", "celery")
    assert (about["headers"]["id"], about["properties"]["priority"]) == ("t1", 3)
    assert about_after.keys() == {"body", "exchange", "routing_key", "headers"}
    assert tuple(about_after["body"][:2]) == ([1], {"a": 2})


@pytest.mark.row("API-420")
def test_who_is_told_beforehand_may_change_the_message(add, listening, sent, read):
    def change(headers, properties, body, **_):
        headers["trace"] = "abc"
        headers["expires"] = "2030-01-01T00:00:00+00:00"
        properties["priority"] = 7
        body[1]["extra"] = True

    listening(signals.before_task_publish, change)
    add.delay(1)

    ((message, _),) = sent()
    assert (message.headers, message.priority) == ({"trace": "abc"}, 7)
    assert message.expires == datetime(2030, 1, 1, tzinfo=UTC)
    assert read(message)[:2] == ([1], {"extra": True})


@pytest.mark.row("API-420", "API-421")
def test_follow_ups_are_announced_and_told_too(app, add, listening, work):
    told = []
    for signal in (signals.before_task_publish, signals.after_task_publish):
        listening(signal, lambda sender, signal, **_: told.append((signal.name, sender)), "proj.log")
    app.task(name="proj.log")(lambda *args: None)

    add.apply_async(link=app.signature("proj.log"))
    work()

    assert told == [("before_task_publish", "proj.log"), ("after_task_publish", "proj.log")]


@pytest.mark.row("API-422")
def test_the_old_signal_is_sent_as_well(add, listening):
    told = []
    listening(signals.task_sent, lambda sender, task_id, args, **_: told.append((sender, task_id, args)))

    add.apply_async((1,), task_id="t1")

    assert told == [("proj.add", "t1", [1])]


# -- Protocol 1 --------------------------------------------------------------------------------------------------------


@pytest.mark.row("CFG-018", "PRT-037", "PRT-038", "PRT-041")
def test_old_peers_get_messages_of_protocol_1_with_chains_as_callbacks(app, add):
    app.conf.task_protocol = 1
    last, middle = ({**app.signature(name), "options": {"task_id": name}} for name in ("proj.last", "proj.middle"))

    message = app.prepare("proj.add", (1,), {}, {"chain": [last, middle], "task_id": "t1"}).message

    payload = msgspec.json.decode(message.body)
    assert (message.task, payload["task"], payload["id"], payload["args"]) == ("", "proj.add", "t1", [1])
    (callback,) = payload["callbacks"]
    assert (callback["task"], callback["options"]["link"][0]["task"]) == ("proj.middle", "proj.last")
