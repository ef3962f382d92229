import pytest

from umbel import Umbel
from umbel.app.link import Link, url_with
from umbel.exceptions import BrokerUnavailable, OperationalError, QueueNotFound


@pytest.fixture
def add(app):
    @app.task(shared=False)
    def add(x, y):
        return x + y

    return add


@pytest.mark.row("API-152", "API-058")
def test_a_connection_of_ones_own_carries_several_calls(app, add, sent):
    with app.connection_for_write() as connection:
        add.apply_async((1, 2), connection=connection)
        line = connection.take()
        add.apply_async((3, 4), producer=connection)
        assert connection.take() is line
        assert connection.connected

    assert not connection.connected
    assert len(sent()) == 2


@pytest.mark.row("API-152")
def test_what_is_no_connection_of_the_app_is_refused(app, add):
    with pytest.raises(TypeError, match=r"must come from the app, such as app.pool; not 'amqp'"):
        add.apply_async((1, 2), connection="amqp")


@pytest.mark.row("API-063", "API-061")
def test_the_pool_lends_connections_and_gets_them_back(app, add, sent):
    with app.pool.acquire(block=True) as connection:
        line = connection.take()
        add.apply_async((1, 2), connection=connection)
    with app.producer_pool.acquire() as producer:
        assert producer.take() is line

    assert app.pool.limit == app.conf.broker_pool_limit
    assert len(sent()) == 1
    app.pool.force_close_all()


@pytest.mark.row("API-062")
def test_an_empty_pool_says_which_limit_bounds_it_and_how_long_it_waited(app):
    app.conf.update(broker_pool_limit=1, broker_pool_acquire_timeout=0.01)

    with app.pool.acquire(), pytest.raises(OperationalError, match=r"'broker_pool_limit'.*within 0.01 s"):
        app.pool.acquire()


def test_a_connection_from_the_pool_that_failed_does_not_go_back(app):
    def fail():
        with app.pool.acquire() as connection:
            lines.append(connection.take())
            raise ZeroDivisionError

    lines = []
    with pytest.raises(ZeroDivisionError):
        fail()

    with app.pool.acquire() as another:
        assert another.take() is not lines[0]


@pytest.mark.row("API-060")
def test_a_given_connection_is_used_instead_of_one_of_the_pool(app):
    with app.connection_for_write() as mine, app.connection_or_acquire(mine) as used:
        assert used is mine
    with app.default_connection() as lent, app.default_producer() as another:
        assert lent.connected
        assert another.take() is not lent.take()


def test_a_queue_can_be_asked_how_much_waits(app, add):
    add.delay(1, 2)

    with app.connection_for_read() as connection:
        assert connection.default_channel.queue_declare("celery", passive=True).message_count == 1
        assert connection.channel.queue_purge("celery") == 1
        with pytest.raises(QueueNotFound, match="has no queue 'nowhere'"):
            connection.channel.queue_declare("nowhere", passive=True)
        with pytest.raises(NotImplementedError, match="task_queues"):
            connection.channel.queue_declare("celery")


@pytest.mark.row("API-059", "TB-028")
def test_a_connection_may_differ_from_the_settings():
    app = Umbel("x", broker="redis://me:secret@there:6379/1", set_as_current=False)

    other = app.connection(hostname="here", port=7000, userid="you", password="p/w", virtual_host="2")

    assert other.as_uri() == "redis://you:**@here:7000/2"
    assert other.as_uri(include_password=True) == "redis://you:p%2Fw@here:7000/2"
    assert other.clone().info() == {
        "transport": "redis", "hostname": "here", "port": 7000, "userid": "you", "virtual_host": "2",
    }  # fmt: skip
    assert app.broker_connection("amqp://rabbit//").as_uri() == "amqp://rabbit//"
    assert "secret" not in repr(app.connection())


def test_parts_that_are_not_given_stay():
    assert url_with("amqp://u:p@h:1/v?x=1", port=2) == "amqp://u:p@h:2/v?x=1"
    assert url_with("memory://") == "memory://"


def test_connecting_is_tried_as_often_as_one_says(app):
    def refuse():
        raise BrokerUnavailable("nobody there")

    told = []
    broken = Link(refuse, "redis://nowhere")

    with pytest.raises(OperationalError):
        broken.ensure_connection(lambda exc, pause: told.append(pause), 2, interval_start=0, interval_step=0)

    assert told == [0, 0]
    assert app.connection().ensure_connection(max_retries=1).connected
