"""Results that come back by rpc keep the store's promises, as far as a reply queue can."""

import msgspec
import pytest

from umbel._names import uuid
from umbel.backends.rpc import Replies, RpcBackend
from umbel.brokers.amqp_address import dialling
from umbel.contrib.testing.contracts.backend import BackendContract
from umbel.contrib.testing.contracts.site import RealClock, Site

pytestmark = [pytest.mark.service("rabbitmq", "A"), pytest.mark.row("TB-128", "PRT-174", "PRT-144")]


class SendsHome(RpcBackend):
    """Sends to one reply queue, whatever a record says."""

    home = ""

    def store(self, records):
        super().store([msgspec.structs.replace(record, reply_to=self.home) for record in records])


class TestRpcBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _vhost(self, rabbitmq_vhost):
        self.url = rabbitmq_vhost

    def new_site(self, folder):
        where = dialling(self.url)
        replies = Replies(where, expires=100.0)
        home = type("Mine", (SendsHome,), {"home": uuid()})
        replies.open(home.home)
        site = Site(
            clock=RealClock(),
            make_backend=lambda: home(where, replies, content=("application/json", "utf-8")),
            second=0.01,
        )
        site._opened.callback(replies.close)
        return site

    # A message says nothing of its state or time: the last one counts (PRT-174), for as long as the reader keeps it.

    @pytest.mark.parametrize("state", ["any"])
    def test_nothing_replaces_success(self, state):
        pytest.skip("the last message of an id counts")

    @pytest.mark.parametrize(
        "name",
        [
            "test_records_expire",
            "test_an_expired_success_may_be_replaced",
            "test_a_record_expires_by_its_own_time_and_not_by_that_of_the_one_it_replaced",
            "test_cleanup_deletes_what_has_expired",
        ],
    )
    def test_what_expires(self, name):
        pytest.skip("a reply carries no time: the reader forgets by its own setting")

    test_records_expire = test_an_expired_success_may_be_replaced = None
    test_a_record_expires_by_its_own_time_and_not_by_that_of_the_one_it_replaced = None
    test_cleanup_deletes_what_has_expired = None
