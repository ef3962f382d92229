"""Where the settings say that Redis is."""

import pytest

from umbel import Umbel
from umbel.app import redis_settings
from umbel.exceptions import SecurityWarning


def conf(**settings):
    return Umbel("proj", set_as_current=False, changes=settings).conf


@pytest.mark.row("CFG-145", "TB-026")
def test_a_broker_behind_tls_is_verified_only_if_that_is_said():
    with pytest.warns(SecurityWarning, match="ssl_cert_reqs"):
        loose = redis_settings.broker_address("rediss://host", {}, conf())
    strict = redis_settings.broker_address("rediss://host?ssl_cert_reqs=required", {}, conf())
    by_setting = redis_settings.broker_address(
        "redis://host", {}, conf(broker_use_ssl={"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"})
    )

    assert loose.tls is not None
    assert strict.tls is not None
    assert by_setting.tls is not None
    assert (loose.tls.verify, strict.tls.verify, by_setting.tls.ca_certs) == (False, True, "/ca.pem")


@pytest.mark.row("CFG-068", "CFG-070", "CFG-071", "CFG-077", "CFG-078", "CFG-222")
def test_settings_say_what_the_url_of_the_results_leaves_open():
    settings = conf(
        redis_username="ann", redis_password="pw", redis_socket_timeout=3.0, redis_socket_connect_timeout=2.0,
        redis_client_name="me", redis_backend_use_ssl={"ssl_cert_reqs": "none"},
    )  # fmt: skip
    address = redis_settings.results_address("redis://host/1", {}, settings)

    assert (address.username, address.password, address.client_name) == ("ann", "pw", "me")
    assert (address.timeout, address.connect_timeout, address.database) == (3.0, 2.0, 1)
    assert address.tls is not None
    assert redis_settings.results_address("redis://bob:own@host", {}, settings).username == "bob"


@pytest.mark.row("CFG-074", "CFG-075", "CFG-076")
def test_old_settings_name_host_port_and_database():
    settings = conf(redis_host="old", redis_port=7000, redis_db=4)
    address = redis_settings.results_address("redis://", {}, settings)
    assert (address.hosts, address.database) == ((("old", 7000),), 4)


@pytest.mark.row("CFG-221")
def test_a_provider_of_credentials_may_be_named():
    address = redis_settings.results_address("redis://host", {}, conf(redis_backend_credential_provider=Provider()))
    assert (address.username, address.password) == ("ann", "fresh")


class Provider:
    def get_credentials(self):
        return ("ann", "fresh")


@pytest.mark.parametrize(
    ("broker", "backend", "fused"),
    [
        ("redis://host", "redis://host:6379/0", True),
        ("redis://:pw@host/2", "redis://host/2", True),
        ("redis://host/0", "redis://host/1", False),
        ("redis://one", "redis://two", False),
        ("redis+socket:///r.sock", "redis+socket:///r.sock?virtual_host=0", True),
        ("redis://host", "memory://", False),
    ],
)
def test_one_database_for_both_is_recognised(broker, backend, fused):
    assert Umbel("proj", broker=broker, backend=backend, set_as_current=False).is_fused() is fused


@pytest.mark.row("CFG-069", "TB-045")
def test_the_connections_to_redis_are_limited_where_settings_say_so():
    few = conf(broker_transport_options={"max_connections": 3}, redis_max_connections=7)

    assert redis_settings.most_senders("redis://host", few) == (3, "max_connections")
    assert redis_settings.most_senders("redis://host", conf()) == (10, "broker_pool_limit")
    assert redis_settings.most_senders("amqp://host", few) == (10, "broker_pool_limit")
    assert redis_settings.most_results_connections("redis://host", few) == 3  # of two each
    assert redis_settings.most_results_connections("redis://host", conf()) is None
    assert redis_settings.most_results_connections("sqlite:///file.db", few) is None
