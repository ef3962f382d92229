"""What URLs and options say about a Redis server, and how its keys are named."""

import ssl

import pytest

from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_names import Names
from umbel.exceptions import ImproperlyConfigured


def test_a_url_says_who_where_and_which_database():
    address = parse_address("redis://ann:p%40ss@example.org:7000/3", {})

    assert (address.hosts, address.database) == ((("example.org", 7000),), 3)
    assert (address.username, address.password) == ("ann", "p@ss")
    assert address.tls is None
    assert "p@ss" not in address.shown


@pytest.mark.row("TB-023")
@pytest.mark.parametrize("url", ["redis://", "redis://localhost", "redis:///0", "redis://127.0.0.1:6379"])
def test_what_a_url_leaves_out_is_the_local_server(url):
    address = parse_address(url, {})
    assert address.hosts[0][0] in {"127.0.0.1", "localhost"}
    assert (address.hosts[0][1], address.database, address.password) == (6379, 0, None)


def test_a_lone_word_before_the_host_is_a_password():
    assert parse_address("redis://secret@host/", {}).password == "secret"
    assert parse_address("redis://:secret@host/", {}).username is None


@pytest.mark.row("TB-024")
def test_a_database_is_a_number():
    with pytest.raises(ValueError, match=r"'tasks'.*numbers"):
        parse_address("redis://host/tasks", {})


@pytest.mark.row("TB-027")
@pytest.mark.parametrize("scheme", ["redis+socket", "unix", "socket"])
def test_a_unix_socket_is_a_path(scheme):
    address = parse_address(f"{scheme}://:secret@/run/redis.sock?virtual_host=2", {})

    assert (address.path, address.database, address.password) == ("/run/redis.sock", 2, "secret")
    assert address.place == parse_address(f"{scheme}:///run/redis.sock", {"db": 2}).place


@pytest.mark.row("TB-004")
def test_sentinels_are_a_list_and_must_be_told_which_master_is_meant():
    url = "sentinel://:pw@one:26380/1;sentinel://two;three:26390"
    address = parse_address(url, {"master_name": "mine", "sentinel_kwargs": {"password": "other"}})

    assert address.hosts == (("one", 26380), ("two", 26379), ("three", 26390))
    assert (address.master, address.database) == ("mine", 1)
    assert (address.password, address.sentinel_password) == ("pw", "other")
    with pytest.raises(ImproperlyConfigured, match="master_name"):
        parse_address("sentinel://one", {})


@pytest.mark.row("TB-026")
def test_tls_verifies_unless_it_is_told_not_to():
    strict = parse_address("rediss://host/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem", {}).tls
    assert strict is not None
    assert (strict.verify, strict.ca_certs) == (True, "/ca.pem")
    for wish in ("CERT_NONE", "none", ssl.CERT_NONE):
        loose = parse_address("redis://host", {"ssl": {"ssl_cert_reqs": wish}}).tls
        assert loose is not None
        assert not loose.verify
    with pytest.raises(ValueError, match="perhaps"):
        parse_address("rediss://host?ssl_cert_reqs=perhaps", {})


def test_credentials_may_come_from_a_provider():
    class Provider:
        def get_credentials(self):
            return ("ann", "fresh")

    address = parse_address("redis://host", {"credential_provider": Provider()})
    assert (address.username, address.password) == ("ann", "fresh")


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.row("PRT-116", "TB-039", "TB-123")
def test_a_priority_belongs_to_the_highest_step_that_is_not_above_it():
    names = Names.of({})
    assert names.lists("q") == ("q", "q\x06\x163", "q\x06\x166", "q\x06\x169")
    assert [names.step(priority) for priority in (None, 0, 2, 3, 5, 6, 8, 9, 255)] == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert Names.of({"priority_steps": [0, 5], "sep": ":"}).lists("q") == ("q", "q:5")


@pytest.mark.parametrize("steps", [[3, 0], [], "0369", [0, 0], list(range(40))])
def test_steps_that_make_no_sense_are_refused(steps):
    with pytest.raises(ImproperlyConfigured, match="priority_steps"):
        Names.of({"priority_steps": steps})


@pytest.mark.row("PRT-120", "PRT-129", "PRT-130", "PRT-134", "TB-044")
def test_a_prefix_stands_before_every_key_and_channel():
    names = Names.of({"global_keyprefix": "app:", "unacked_key": "mine"})

    assert names.lists("q")[0] == "app:q"
    assert names.turn()[:2] == ("app:mine", "app:unacked_index")
    assert names.bindings("x") == "app:_kombu.binding.x"
    assert names.channels(9, "celeryev", "worker.online") == ("app:/9.celeryev/worker.online",)
    assert names.channels(9, "celery.pidbox", "") == ("app:/9.celery.pidbox",)
    assert names.delayed("q") == "app:umbel.delayed.q"


@pytest.mark.row("TB-041", "TB-042")
def test_the_prefix_of_channels_may_be_another_and_the_key_left_out():
    assert Names.of({"fanout_prefix": False}).channels(1, "x", "k") == ("x/k",)
    assert Names.of({"fanout_prefix": "all."}).channels(1, "x", "k") == ("all.x/k",)
    assert Names.of({"fanout_patterns": False}).channels(1, "x", "k") == ("/1.x",)


@pytest.mark.row("TB-032", "TB-033", "TB-035", "TB-036", "TB-038")
def test_options_name_what_celerys_workers_look_at_and_when():
    names = Names.of({
        "unacked_key": "mine", "unacked_index_key": "when", "visibility_timeout": 60, "unacked_restore_limit": 5,
        "unacked_restore_interval": 2, "sep": "|",
    })  # fmt: skip

    assert names.turn()[:2] == ("mine", "when")
    assert (names.visibility_timeout, names.restore_limit, names.restore_interval) == (60.0, 5, 2.0)
    assert names.lists("q")[1] == "q|3"


@pytest.mark.row("TB-040")
def test_a_strategy_that_does_not_exist_is_refused():
    with pytest.raises(ImproperlyConfigured, match="round_robin, sorted, priority"):
        Names.of({"queue_order_strategy": "random"})


@pytest.mark.row("TB-043")
def test_who_gives_up_acknowledgements_is_told_that_umbel_keeps_them():
    with pytest.warns(UserWarning, match="task_acks_late=False"):
        Names.of({"ack_emulation": False})
    Names.of({"ack_emulation": True})


@pytest.mark.row("PRT-171")
@pytest.mark.parametrize(("prefix", "key"), [("", ""), ("app", "app_"), ("app:", "app:"), ("app.", "app.")])
def test_results_bear_celerys_keys(prefix, key):
    names = Names.of({}, {"global_keyprefix": prefix})
    assert names.result("id") == f"{key}celery-task-meta-id"
    assert names.group("id") == f"{key}celery-taskset-meta-id"
