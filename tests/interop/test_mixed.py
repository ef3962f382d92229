"""Workers of Celery and of umbel on one queue: they share the work, keep each other's leases, and inherit it."""

import time

import pytest
from umbel_interop_fleet import PATIENCE, until

pytestmark = pytest.mark.process

REDIS = pytest.param("redis", marks=pytest.mark.service("redis", "A"))
RABBITMQ = pytest.param("rabbitmq", marks=[pytest.mark.service("rabbitmq", "A"), pytest.mark.service("redis", "A")])
VISIBILITY = 3.0  # seconds after which what a worker holds may be taken from it, unless it says otherwise

# As kombu does it in every worker of Celery, now and then.
RESTORE = """
with app.connection() as connection:
    connection.default_channel.qos.restore_visible(num=100)
"""


@pytest.fixture(scope="module", params=[REDIS, RABBITMQ])
def fleet(request, make_fleet):
    transport = {"visibility_timeout": VISIBILITY, "unacked_restore_interval": 0.2} if request.param == "redis" else {}
    made = make_fleet(
        request.param,
        broker_transport_options=transport,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_queue_max_priority=None if request.param == "redis" else 9,
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def mixed(fleet):
    """A fleet with a worker of each side on the queue `mixed`."""
    for worker in [fleet.worker("celery", "mixed"), fleet.worker("umbel", "mixed")]:
        worker.ready()
    return fleet


@pytest.mark.parametrize("caller", ["celery", "umbel"])
def test_both_take_from_one_queue_and_each_task_runs_once(mixed, caller):
    client, rounds, who = mixed.client(caller, "mixed"), 0, set()
    while who != {"celery", "umbel"}:  # one may sleep for a moment
        assert rounds < 10, f"only {who} took tasks"
        names = [f"{caller} {rounds} {i}" for i in range(40)]
        sides = client("return [each.get(timeout=40) for each in [nap.delay(0.02, n) for n in names]]", names=names)
        assert [mixed.noted(name) for name in names] == [[side] for side in sides]
        who |= set(sides)
        rounds += 1


def test_a_task_that_outlasts_the_visibility_timeout_is_left_to_its_worker(mixed):
    if not mixed.broker.startswith("redis"):
        pytest.skip("a consumer of RabbitMQ holds its messages until it is gone")
    client = mixed.client("celery", "mixed")
    begin, ours = time.monotonic(), []
    while not ours:  # until umbel got one: what Celery holds too long, it gives back itself
        assert time.monotonic() - begin < PATIENCE
        names = [f"long {time.monotonic()} {i}" for i in range(2)]
        client("for name in names: nap.apply_async((seconds, name))", names=names, seconds=VISIBILITY + 1)
        until(lambda names=names: all(mixed.noted(name) for name in names))
        ours = [name for name in names if mixed.noted(name) == ["umbel"]]

    until_over = time.monotonic() + VISIBILITY + 1
    while time.monotonic() < until_over:
        client(RESTORE)
        time.sleep(0.1)

    assert [mixed.noted(name) for name in ours] == [["umbel"]] * len(ours)


@pytest.mark.parametrize(("victim", "heir"), [("celery", "umbel"), ("umbel", "celery")])
def test_the_work_of_a_killed_worker_is_inherited_by_the_other(fleet, victim, heir):
    queue = f"inherited-{victim}"
    client = fleet.client(heir, queue)
    first = fleet.worker(victim, queue, **({"task_lease": 2.0} if victim == "umbel" else {}))
    task = client("return stubborn.delay(name).id", name=queue)
    first.ready()
    until(lambda: fleet.noted(queue) == [victim], first.log.read_text)
    began = time.time()
    first.kill()
    fleet.worker(heir, queue).ready()

    done = []
    while not done:
        assert time.time() - began < PATIENCE, fleet.noted(queue)
        if heir == "celery" and fleet.broker.startswith("redis"):
            client(RESTORE)  # its workers do so too seldom for a test
        done = client(
            """
            try:
                return AsyncResult(task, app=app).get(timeout=0.5)
            except exceptions.TimeoutError:
                return []
            """,
            task=task,
        )

    assert done[0] == heir
    assert fleet.noted(queue) == [victim, heir]
    if victim == "celery" and fleet.broker.startswith("redis"):
        assert done[1] - began > VISIBILITY - 1  # not before: the victim might have lived


@pytest.mark.parametrize(("caller", "answers"), [("celery", "umbel"), ("umbel", "celery")])
def test_priorities_come_first(fleet, caller, answers):
    queue = f"urgent-{caller}"
    priorities = [0, 9, 3, 6, 9, 0, 6, 3]
    client = fleet.client(caller, queue)
    client(
        "for i, priority in enumerate(priorities): mark.apply_async((f'{queue} {i}',), priority=priority)",
        priorities=priorities,
        queue=queue,
    )

    fleet.worker(answers, queue, options=("-c", "1", "-P", "solo")).ready()

    def ran():
        return [line.split() for line in fleet.runs.read_text().splitlines() if line.startswith(queue)]

    until(lambda: len(ran()) == len(priorities), fleet.runs.read_text)
    order = [priorities[int(number)] for _, number, _ in ran()]
    assert order == sorted(priorities, reverse=not fleet.broker.startswith("redis"))
    assert [int(number) for _, number, _ in ran()[:2]] == ([0, 5] if fleet.broker.startswith("redis") else [1, 4])
