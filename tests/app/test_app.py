import os
import pickle
import sys
import threading
import types
import warnings
from contextlib import closing
from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import pytest

import umbel
from umbel import Celery, Task, Umbel, current, shared_task, signals
from umbel.exceptions import (
    AlwaysEagerIgnored,
    DuplicateTaskNameWarning,
    ImproperlyConfigured,
    InvalidTaskError,
    NotRegistered,
    OperationalError,
)


def make(main=None, **options):
    options = {"broker": "memory://", "backend": "memory://", "set_as_current": False, **options}
    return Umbel(main, **options)


# -- Creating one ------------------------------------------------------------------------------------------------------


@pytest.mark.row("API-001")
def test_the_app_has_two_names():
    assert Celery is Umbel
    assert umbel.Celery is umbel.Umbel


@pytest.mark.row("API-009", "API-034")
def test_creating_an_app_reads_and_connects_nothing():
    app = make(config_source="a.module.that.does_not_exist")

    assert not app.configured
    assert not app.finalized


@pytest.mark.row("API-010", "API-011", "API-012")
def test_arguments_are_settings_that_win_over_the_config_object():
    app = make("x", include=["a", "b"], timezone="Europe/Berlin", changes={"task_serializer": "pickle"})

    app.config_from_object({"broker_url": "redis://", "timezone": "UTC", "task_serializer": "yaml", "imports": ["c"]})

    assert app.conf.broker_url == "memory://"
    assert app.conf.include == ["a", "b"]
    assert app.conf.timezone == "Europe/Berlin"
    assert app.conf.task_serializer == "pickle"
    assert app.conf.imports == ["c"]


def test_a_misspelt_argument_is_an_error_with_a_suggestion():
    with pytest.raises(TypeError, match=r"no argument 'borker'; did you mean 'broker'?"):
        Umbel("x", borker="memory://")
    with pytest.raises(ImproperlyConfigured, match=r"'task_serialiser'; did you mean 'task_serializer'?"):
        Umbel("x", task_serialiser="json")


@pytest.mark.row("API-015", "API-053", "API-054", "API-006")
def test_an_app_becomes_that_of_its_thread_unless_told_otherwise():
    current.set_current_app(None)
    app = make(set_as_current=True)
    assert umbel.current_app == app

    other = make()
    assert umbel.current_app == app

    other.set_current()
    assert umbel.current_app == other
    current.set_current_app(None)


@pytest.mark.row("API-079")
def test_an_app_shows_its_name():
    assert repr(make("proj")).startswith("<Umbel proj at 0x")
    assert repr(make()).startswith("<Umbel __main__ at 0x")


@pytest.mark.row("CFG-267")
def test_a_spawned_child_makes_its_tasks_at_once(monkeypatch):
    monkeypatch.setenv("FORKED_BY_MULTIPROCESSING", "1")
    bound = []

    class Told(Task):
        @classmethod
        def on_bound(cls, app):
            bound.append(cls.name)

    with Umbel("spawned", set_as_current=False) as app:
        app.task(lambda: 1, name="now", base=Told)
        assert bound == ["now"]


@pytest.mark.row("API-078")
def test_an_app_can_be_pickled_with_its_settings():
    app = pickle.loads(pickle.dumps(make("proj", timezone="Europe/Berlin")))

    assert app.main == "proj"
    assert app.conf.timezone == "Europe/Berlin"
    assert app.conf.broker_url == "memory://"


@pytest.mark.row("API-055")
def test_a_closed_app_is_nobodys_current_app():
    with make(set_as_current=True) as app:
        assert current.get_current_app() is app
    assert app not in current.live_apps()


@pytest.mark.row("API-016")
def test_an_app_may_begin_with_tasks():
    class Add(Task):
        name = "given.add"

        def run(self, x, y):
            return x + y

    one = make(tasks={"given.add": Add()})
    other = make(tasks=one.tasks)

    assert other.tasks is one.tasks
    assert other.tasks["given.add"](1, 2) == 3


@pytest.mark.row("API-013", "API-019", "API-072")
def test_parts_may_be_replaced_by_class_or_path(monkeypatch):
    class Queues:
        def __init__(self, app):
            self.app = app

    class Mine(Umbel):
        log_cls = Queues

        def on_init(self):
            self.told = True

    module = types.ModuleType("my_parts")
    module.Loading = type("Loading", (), {"__init__": lambda self, app: setattr(self, "app", app)})
    monkeypatch.setitem(sys.modules, "my_parts", module)
    app = Mine("x", amqp=Queues, control="my_parts:Loading", loader="my_parts.Loading", set_as_current=False)

    assert app.told
    assert isinstance(app.amqp, Queues)
    assert isinstance(app.log, Queues)
    assert isinstance(app.control, module.Loading)
    assert isinstance(app.loader, module.Loading)
    assert app.loader.app is app


@pytest.mark.row("API-013", "CFG-247")
def test_the_loader_may_be_named_by_the_environment(monkeypatch):
    module = types.ModuleType("my_parts")
    module.Loading = type("Loading", (), {"__init__": lambda self, app: None})
    monkeypatch.setitem(sys.modules, "my_parts", module)
    monkeypatch.setenv("CELERY_LOADER", "my_parts:Loading")

    assert isinstance(make().loader, module.Loading)


# -- Where the embedded queue is ---------------------------------------------------------------------------------------


def created_in(tmp_path, source, monkeypatch, name="shop_tasks"):
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir("/")
    monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__(name)


def test_without_a_broker_there_is_a_file_beside_the_module(tmp_path, monkeypatch):
    module = created_in(tmp_path, "from umbel import Umbel\napp = Umbel('shop', set_as_current=False)\n", monkeypatch)

    assert module.app.broker_url() == module.app.backend_url() == "sqlite:///shop.umbel.db"
    assert module.app.shown_url(module.app.broker_url()) == f"sqlite:///{tmp_path}/shop.umbel.db"
    assert module.app.is_fused()


def test_the_module_is_found_through_a_subclass_and_a_function(tmp_path, monkeypatch):
    source = (
        "from umbel import Umbel\n"
        "class Mine(Umbel):\n"
        "    def __init__(self, *args):\n"
        "        super().__init__(*args, set_as_current=False)\n"
        "def create():\n"
        "    return Mine()\n"
        "app = create()\n"
    )
    module = created_in(tmp_path, source, monkeypatch)

    assert module.app.home == tmp_path
    assert module.app.broker_url() == "sqlite:///shop_tasks.umbel.db"


@pytest.mark.row("API-006")
def test_the_default_app_is_at_home_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "celeryconfig.py").write_text("task_default_queue = 'from_celeryconfig'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(current._APPS, "default", None)
    monkeypatch.setattr(current._APPS, "latest", None)
    monkeypatch.setattr(current._APPS.of_thread, "app", None)

    assert umbel.current_app.main == "default"
    assert umbel.current_app.home == tmp_path
    assert umbel.current_app.conf.task_default_queue == "from_celeryconfig"


@pytest.mark.row("TB-144", "PRT-193")
@pytest.mark.parametrize("backend", [None, "disabled://"])
def test_with_a_broker_results_are_kept_only_where_the_settings_say(backend):
    app = Umbel("x", broker="memory://", backend=backend, set_as_current=False)

    assert app.backend_url() is None
    assert not app.is_fused()
    with pytest.raises(ImproperlyConfigured, match="no result backend is configured"):
        app.AsyncResult("id").get()
    with pytest.raises(NotImplementedError):  # what Celery raises
        app.backend.get_task_meta("id")
    assert app.backend.as_uri() == "disabled://"


@pytest.mark.row("TB-155")
def test_a_store_says_where_it_is_without_its_password():
    app = Umbel("x", broker="memory://", backend="redis://me:sesame@host/1", set_as_current=False)

    assert app.backend.as_uri() == "redis://me:**@host/1"
    assert app.backend.as_uri(include_password=True) == "redis://me:sesame@host/1"


@pytest.mark.row("TB-002")
@pytest.mark.parametrize("scheme", ["amqp", "pyamqp", "librabbitmq"])
def test_all_of_celerys_names_for_rabbitmq_lead_there(scheme):
    app = Umbel("x", broker=f"{scheme}://localhost//", set_as_current=False)

    with closing(app.open_broker()) as broker:  # nothing is connected yet
        assert type(broker).__name__ == "AmqpBroker"


def test_a_scheme_nobody_knows_is_an_error_that_lists_what_there_is():
    app = make(broker="memry://u:secret@host")

    with pytest.raises(ImproperlyConfigured, match=r"no broker is called 'memry'.*did you mean 'memory'") as caught:
        app.send_task("x")
    assert "secret" not in str(caught.value)


# -- Tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.row("API-022")
def test_a_task_is_made_when_it_is_first_used(app):
    @app.task
    def add(x, y):
        return x + y

    assert not app.configured
    assert isinstance(add, Task)
    assert not app.configured

    assert add.name == f"{__name__}.add"
    assert app.configured
    assert app.tasks[add.name] is add
    assert add(2, 2) == 4


@pytest.mark.row("API-022", "API-033")
def test_a_task_is_made_when_the_app_is_finalised(app):
    @app.task
    def add(x, y):
        return x + y

    app.finalize()

    assert add is app.tasks[f"{__name__}.add"]
    assert repr(add).startswith(f"<@task: {__name__}.add of {app.main} at 0x")


@pytest.mark.row("API-022")
def test_many_threads_that_use_a_new_task_find_one_task(app):
    made = []

    class Counting(Task):
        def __init__(self):
            made.append(self)

    @app.task(base=Counting)
    def add():
        pass

    threads = [threading.Thread(target=lambda: add.name) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made == [add]


@pytest.mark.row("API-022", "API-085")
def test_a_base_class_assigned_before_the_first_use_counts(app):
    @app.task
    def add():
        pass

    class ContextTask(app.Task):
        abstract = True

        def __call__(self, *args, **kwargs):
            return "in context", self.run(*args, **kwargs)

    app.Task = ContextTask

    assert add() == ("in context", None)


@pytest.mark.row("API-021")
def test_the_settings_are_a_view_and_may_be_those_of_another():
    with make(changes={"task_default_queue": "one"}) as app, make() as other:
        assert app.conf.task_default_queue == app.conf["task_default_queue"] == "one"
        app.conf = other.conf
        app.conf.task_default_queue = "two"

        assert other.conf["task_default_queue"] == "two"
        assert app.prepare("any").route.routing_key == "two"


@pytest.mark.row("API-045")
def test_a_signature_made_by_an_app_is_sent_by_it():
    with make() as app, make() as other:
        call = app.signature("some.task", (1,), {"b": 2}, queue="there")

        assert (call.task, call.args, call.kwargs, call.options) == ("some.task", (1,), {"b": 2}, {"queue": "there"})
        call.delay(0)
        with app.lend_broker() as broker, other.lend_broker() as unused:
            assert broker.sizes()["there"].ready == 1
            assert "there" not in unused.sizes()


@pytest.mark.row("API-023")
def test_the_decorator_takes_one_function(app):
    with pytest.raises(TypeError, match="must be a callable"):
        app.task("add")
    with pytest.raises(TypeError, match="exactly 1 argument"):
        app.task(print, print)


@pytest.mark.row("API-020", "API-030", "API-083")
def test_tasks_are_called_after_module_and_function(app):
    app.main = "proj"

    assert app.gen_task_name("add", "some.module") == "some.module.add"
    assert app.gen_task_name("add", "__main__") == "proj.add"
    assert app.task(name="other")(lambda: None).name == "other"


@pytest.mark.row("API-030")
def test_how_tasks_are_called_can_be_changed():
    class Short(Umbel):
        def gen_task_name(self, name, module):
            return f"short.{name}"

    app = Short("x", broker="memory://", set_as_current=False)

    @app.task
    def add():
        pass

    assert add.name == "short.add"


@pytest.mark.row("API-024", "API-089")
def test_other_options_become_attributes_of_the_task(app):
    @app.task(rate_limit="10/m", my_own="thing", max_retries=None)
    def add():
        """Add."""

    assert (add.rate_limit, add.my_own, add.max_retries) == ("10/m", "thing", None)
    assert add.__doc__ == "Add."
    assert add.__name__ == "add"
    assert add.__module__ == __name__


@pytest.mark.row("API-026")
def test_a_filter_gives_back_what_it_likes(app):
    seen = []

    assert app.task(filter=lambda task: seen.append(task) or "filtered")(lambda: None) == "filtered"
    assert isinstance(seen[0], Task)


@pytest.mark.row("API-025")
def test_tasks_are_shared_with_other_apps_of_the_process(app):
    @app.task(name="shared.by.default")
    def one():
        return 1

    @app.task(shared=False, name="not.shared")
    def two():
        pass

    other = make()

    assert other.tasks["shared.by.default"]() == 1
    assert other.tasks["shared.by.default"] is not one
    assert other.tasks["shared.by.default"].app is other
    assert "not.shared" not in other.tasks


@pytest.mark.row("API-025")
def test_a_task_shared_by_another_app_gives_way_to_ones_own(app):
    make().task(name="shared.and.own")(lambda: "theirs")
    app.finalize()
    assert app.tasks["shared.and.own"]() == "theirs"

    own = app.task(name="shared.and.own")(lambda: "ours")

    assert app.tasks["shared.and.own"] is own
    assert own() == "ours"


@pytest.mark.row("API-027")
def test_of_two_functions_the_first_keeps_the_name_and_the_user_is_told_once(app):
    @app.task(name="taken")
    def first():
        return 1

    with pytest.warns(DuplicateTaskNameWarning, match="'taken'") as caught:

        @app.task(name="taken")
        def second():
            return 2

    assert caught[0].filename == __file__
    assert second is first
    assert app.tasks["taken"]() == 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.task(name="taken")(lambda: 3)


@pytest.mark.row("API-027")
def test_the_same_function_again_is_the_same_task(app):
    def add():
        pass

    assert app.task(add) is app.task(add)


@pytest.mark.row("API-028")
def test_of_two_registered_tasks_the_last_replaces_the_first(app):
    class First(Task):
        name = "taken"

    class Second(Task):
        name = "taken"

    app.register_task(First())
    with pytest.warns(DuplicateTaskNameWarning, match="'taken'") as caught:
        second = app.register_task(Second())

    assert caught[0].filename == __file__
    assert app.tasks["taken"] is second


@pytest.mark.row("API-029", "API-128")
def test_a_class_is_registered_as_its_one_instance(app):
    class Add(Task):
        made = 0

        def __init__(self):
            type(self).made += 1

        def run(self, x, y):
            return x + y

    add = app.register_task(Add, max_retries=7)

    assert add.name == f"{__name__}.Add"
    assert app.tasks[add.name] is add
    assert app.register_task(add) is add
    assert (Add.made, add(1, 2), add.max_retries, add.app) == (1, 3, 7, app)


@pytest.mark.row("API-029")
def test_a_subclass_of_a_registered_task_has_a_name_of_its_own(app):
    class Add(Task):
        pass

    app.register_task(Add)

    class AddMore(Add):
        pass

    assert app.register_task(AddMore).name == f"{__name__}.AddMore"


@pytest.mark.row("API-017")
def test_an_app_may_insist_on_being_finalised_by_hand():
    app = make(autofinalize=False)

    @app.task
    def add():
        pass

    with pytest.raises(RuntimeError, match="Contract breach: app not finalized"):
        add.name  # noqa: B018 - looking is the use
    with pytest.raises(RuntimeError, match="Contract breach: app not finalized"):
        app.tasks  # noqa: B018 - looking is the use

    app.finalize()
    assert add.name in app.tasks


@pytest.mark.row("API-018", "API-086")
def test_an_app_may_leave_arguments_unchecked():
    app = make(strict_typing=False)

    @app.task
    def add(x, y):
        pass

    assert add.delay(1)
    assert not add.typing


@pytest.mark.row("API-031")
def test_a_task_nobody_registered_is_an_error_with_a_suggestion(app):
    app.task(name="proj.add")(lambda: None)

    with pytest.raises(NotRegistered, match=r"'proj.ad' is registered; did you mean 'proj.add'?"):
        app.tasks["proj.ad"]
    with pytest.raises(KeyError):
        app.tasks["something.else"]


@pytest.mark.row("API-032")
def test_the_registry_takes_and_gives_tasks(app):
    task = app.task(name="one")(lambda: None)

    app.tasks.unregister(task)
    assert "one" not in app.tasks
    with pytest.raises(NotRegistered):
        app.tasks.unregister("one")

    app.tasks.register(task)
    assert app.tasks["one"] is task
    assert app.tasks.regular()["one"] is task
    assert app.tasks.periodic() == {}
    with pytest.raises(InvalidTaskError, match="has no name"):
        app.tasks.register(Task())


@pytest.mark.row("API-033", "API-076")
def test_finalising_happens_once_and_is_told(app):
    told = []

    @app.on_after_finalize.connect
    def tell(sender, **_):
        told.append((sender, sender.finalized))

    app.finalize()
    app.finalize()

    assert told == [(app, True)]


@pytest.mark.row("API-035", "API-036")
def test_every_app_has_the_tasks_that_peers_send(app):
    names = ("accumulate", "backend_cleanup", "chain", "chord", "chunks", "group", "map", "starmap")

    assert {f"celery.{name}" for name in names} <= app.tasks.keys()
    assert app.tasks["celery.accumulate"](1, 2, 3) == (1, 2, 3)
    assert app.tasks["celery.accumulate"](1, 2, 3, index=1) == 2
    with pytest.raises(NotImplementedError):
        app.tasks["celery.chain"]()


# -- Shared tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.row("API-080")
def test_a_shared_task_is_that_of_the_current_app(app):
    @shared_task(name="shared.one", max_retries=9)
    def one():
        return 1

    assert one.app is app
    assert one() == 1
    assert one.max_retries == 9

    with make(set_as_current=True) as other:
        assert one.app is other
        assert one == other.tasks["shared.one"]
    app.set_current()


@pytest.mark.row("API-080")
def test_a_shared_task_is_given_to_apps_that_are_finalised_already(app):
    app.finalize()

    @shared_task
    def late():
        return "late"

    assert app.tasks[f"{__name__}.late"]() == "late"


@pytest.mark.row("API-080")
def test_a_task_cannot_be_shared_twice(app):
    with pytest.raises(TypeError, match="is a task already"):
        shared_task(shared_task(lambda: None))


# -- Sending by name ---------------------------------------------------------------------------------------------------


@pytest.mark.row("API-037")
def test_a_task_can_be_sent_by_name_alone(app, sent, read):
    result = app.send_task("elsewhere.add", (1,), {"y": 2}, countdown=10, task_id="t1")

    assert result.id == "t1"
    assert isinstance(result, app.AsyncResult)
    assert app.open_broker().sizes()["celery"].delayed == 1


@pytest.mark.row("API-038")
def test_what_is_sent_by_name_has_the_options_of_the_task_if_it_is_known(app, sent):
    app.task(name="known", priority=3, time_limit=30, soft_time_limit=20, expires=60, queue="fast")(lambda: None)

    app.send_task("known")
    app.send_task("known", time_limit=None, soft_time_limit=None, expires=None, priority=5)

    (first, _), (second, _) = sent("fast")
    if first.priority == 5:
        first, second = second, first
    assert (first.priority, first.hard_limit, first.soft_limit) == (3, 30, 20)
    assert first.expires is not None
    assert (second.priority, second.hard_limit, second.soft_limit, second.expires) == (5, None, None, None)


@pytest.mark.row("API-039")
def test_sending_by_name_is_never_eager(app, sent):
    app.conf.task_always_eager = True

    with pytest.warns(AlwaysEagerIgnored):
        app.send_task("elsewhere.add")

    assert len(sent()) == 1


@pytest.mark.row("API-040")
def test_what_a_task_sends_knows_where_it_comes_from(app, work, sent):
    @app.task(bind=True)
    def parent(self):
        kept = app.send_task("elsewhere.child", task_id="kept")
        app.send_task("elsewhere.child", task_id="not-kept", add_to_parent=False)
        assert self.request.children == [kept]

    result = parent.delay()
    runner_outcomes = work.__wrapped__ if hasattr(work, "__wrapped__") else None
    assert runner_outcomes is None
    broker_messages = []
    app.task(name="elsewhere.child", bind=True)(lambda self: broker_messages.append(self.request.parent_id))

    work()

    assert broker_messages == [result.id, result.id]
    assert [child.id for child in result.children] == ["kept"]


@pytest.mark.row("API-043")
def test_a_broker_that_is_down_is_an_operational_error(app, monkeypatch):
    attempts = []

    def down(*, write):
        attempts.append(1)
        raise umbel.exceptions.BrokerUnavailable("down")

    monkeypatch.setattr(app, "open_broker", down)
    app.conf.task_publish_retry_policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0}

    with pytest.raises(OperationalError, match="down"):
        app.send_task("x")
    assert len(attempts) == 3

    with pytest.raises(OperationalError, match="down"):
        app.send_task("x", retry=False)
    assert len(attempts) == 4


# -- Configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.row("API-047")
def test_a_config_object_is_read_when_a_setting_is(app, monkeypatch):
    module = types.ModuleType("some_config")
    module.timezone = "Europe/Berlin"
    monkeypatch.setitem(sys.modules, "some_config", module)

    app.config_from_object("some_config")
    assert not app.configured
    assert app.conf.timezone == "Europe/Berlin"

    app.config_from_object({"timezone": "Europe/Paris"})
    assert app.conf.timezone == "Europe/Paris"


@pytest.mark.row("API-048")
def test_a_config_module_may_be_named_by_the_environment(app, monkeypatch):
    with pytest.raises(ImproperlyConfigured, match="'PROJ_CONFIG' is not set"):
        app.config_from_envvar("PROJ_CONFIG")
    assert app.config_from_envvar("PROJ_CONFIG", silent=True) is False

    module = types.ModuleType("some_config")
    module.task_default_queue = "jobs"
    monkeypatch.setitem(sys.modules, "some_config", module)
    monkeypatch.setenv("PROJ_CONFIG", "some_config")

    assert app.config_from_envvar("PROJ_CONFIG") is True
    assert app.conf.task_default_queue == "jobs"


@pytest.mark.row("API-049")
def test_settings_may_come_from_a_command_line(app):
    app.config_from_cmdline(["task_default_queue=jobs", "worker.concurrency=3"])

    assert app.conf.task_default_queue == "jobs"
    assert app.conf.worker_concurrency == 3


@pytest.mark.row("API-050")
def test_added_defaults_lose_against_everybody_else(app):
    app.add_defaults({"task_default_queue": "added", "timezone": "Europe/Berlin"})
    app.add_defaults(lambda: {"timezone": "Europe/Paris"})
    app.config_from_object({"task_default_queue": "jobs"})

    assert app.conf.task_default_queue == "jobs"
    assert app.conf.timezone == "Europe/Paris"


@pytest.mark.row("API-073", "API-074", "API-075")
def test_who_wants_to_configure_is_called_in_time():
    told = []

    class Mine(Umbel):
        def on_configure(self):
            told.append("method")

        def prepare_config(self, conf):
            told.append("prepare")
            return conf

    app = Mine("x", broker="memory://", set_as_current=False)

    @app.on_after_configure.connect
    def after(sender, source, **_):
        told.append((sender is app, source is app.conf))

    app.conf.timezone  # noqa: B018 - looking loads
    assert told == ["method", "prepare", (True, True)]


@pytest.mark.row("API-074")
def test_configuring_is_a_signal_too(app):
    @app.on_configure.connect
    def configure(sender, **_):
        sender.conf.task_default_queue = "jobs"

    assert app.conf.task_default_queue == "jobs"


@pytest.mark.row("API-464", "CFG-006")
def test_new_routes_count_at_once(app, sent):
    task = app.task(name="a.b")(lambda: None)
    task.delay()

    app.conf.task_routes = {"a.*": "elsewhere"}
    task.delay()
    app.conf.task_default_queue = "other"
    app.send_task("c")

    assert [len(sent(queue)) for queue in ("celery", "elsewhere", "other")] == [1, 1, 1]


@pytest.mark.row("API-067")
def test_either_returns_the_first_that_is_given(app):
    assert app.either("task_default_queue", None, "given") == "given"
    assert app.either("task_default_queue", None) == "celery"


@pytest.mark.row("API-046")
def test_periodic_tasks_may_be_added_before_the_configuration_is_read(app):
    add = app.task(name="proj.add")(lambda x, y: x + y)
    early = app.add_periodic_task(10.0, app.signature("proj.add", (2,)), args=(1,), expires=5)
    assert not app.configured

    late_schedule = app.conf.beat_schedule
    late = app.add_periodic_task(20.0, add.s(1, 2), name="named")

    assert (early, late) == ("proj.add(2)", "named")
    assert late_schedule[early]["args"] == (1, 2)
    assert late_schedule[early]["options"] == {"expires": 5}
    assert late_schedule["named"]["schedule"] == 20.0


# -- Importing tasks ---------------------------------------------------------------------------------------------------


def package(folder, name, files):
    (folder / name).mkdir()
    for file, text in {"__init__.py": "", **files}.items():
        (folder / name / file).write_text(text)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    package(tmp_path, "disco_one", {"tasks.py": "LOADED = True\n"})
    package(tmp_path, "disco_two", {"jobs.py": ""})
    package(tmp_path, "disco_bad", {"tasks.py": "import does_not_exist_anywhere\n"})
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("disco_")]:
        del sys.modules[name]


@pytest.mark.row("API-051")
def test_task_modules_are_found_when_modules_are_imported(app, packages):
    app.autodiscover_tasks(["disco_one", "disco_two"])
    assert "disco_one.tasks" not in sys.modules

    app.import_modules()

    assert "disco_one.tasks" in sys.modules
    assert "disco_two" in sys.modules


@pytest.mark.row("API-051")
def test_task_modules_may_have_another_name_or_none(app, packages):
    app.autodiscover_tasks(lambda: ["disco_two"], related_name="jobs", force=True)
    assert "disco_two.jobs" in sys.modules

    app.autodiscover_tasks(["disco_one"], related_name=None, force=True)
    assert "disco_one" in sys.modules
    assert "disco_one.tasks" not in sys.modules


@pytest.mark.row("API-051")
def test_a_class_path_stands_for_its_package(app, packages):
    app.autodiscover_tasks(["disco_one.SomeConfig"], force=True)

    assert "disco_one.tasks" in sys.modules


@pytest.mark.row("API-051")
def test_an_error_inside_a_task_module_is_the_users_to_see(app, packages):
    app.autodiscover_tasks(["disco_bad"])

    with pytest.raises(ModuleNotFoundError, match="does_not_exist_anywhere"):
        app.import_modules()


@pytest.mark.row("API-433", "API-545")
def test_the_settings_name_modules_to_import(app, packages):
    told = []
    signals.import_modules.connect(lambda sender, **_: told.append(sender), sender=app, weak=False)
    app.conf.imports = ("disco_one.tasks",)
    app.conf.include = ["disco_two.jobs"]

    app.import_modules()

    assert told == [app]
    assert {"disco_one.tasks", "disco_two.jobs"} <= sys.modules.keys()


# -- Time and identity -------------------------------------------------------------------------------------------------


@pytest.mark.row("API-065", "API-066")
def test_the_app_has_a_time_zone(app):
    assert app.now().tzinfo == UTC
    assert app.uses_utc_timezone()

    app.conf.timezone = "Asia/Tokyo"

    assert app.timezone == ZoneInfo("Asia/Tokyo")
    assert app.now().utcoffset() == timedelta(hours=9)
    assert not app.uses_utc_timezone()


@pytest.mark.row("API-071")
def test_an_app_has_an_id_for_each_thread(app):
    seen = []
    thread = threading.Thread(target=lambda: seen.append((app.oid, app.thread_oid)))
    thread.start()
    thread.join()

    assert app.oid == app.oid == seen[0][0]
    assert app.thread_oid == app.thread_oid != seen[0][1]


@pytest.mark.row("API-069", "API-070", "API-007")
def test_an_app_knows_its_running_task(app, work):
    seen = []

    @app.task(name="inner")
    def inner():
        seen.append((app.current_task.name, app.current_worker_task.name, umbel.current_task.name))

    @app.task(name="outer")
    def outer():
        inner()

    outer.delay()
    work()

    assert seen == [("inner", "outer", "inner")]
    assert app.current_task is None
    assert not umbel.current_task


@pytest.mark.row("API-068", "API-005", "TB-028")
def test_a_bug_report_shows_places_and_settings_without_secrets():
    app = make(broker="amqp://me:sesame@host//", security_key_password="sesame")

    report = umbel.bugreport(app)

    assert "umbel:" in report
    assert "amqp://me:" in report
    assert "sesame" not in report
    assert report == app.bugreport()


@pytest.mark.row("API-057")
def test_worker_main_needs_the_word_worker(app):
    with pytest.raises(ValueError, match="'worker'"):
        app.worker_main(["celery", "beat"])


# -- Connections and forks ---------------------------------------------------------------------------------------------


@pytest.mark.row("API-060", "API-061")
def test_the_app_lends_its_connections(app):
    with app.connection_or_acquire() as connection:
        assert connection.broker.sizes() == {}
    with app.producer_or_acquire() as producer, app.producer_or_acquire(producer) as same:
        assert same is producer
        app.send_task("x", producer=producer)


@pytest.mark.row("API-064")
def test_queues_may_be_selected(app):
    app.select_queues("a,b")

    assert list(app.amqp.queues.consume_from) == ["a", "b"]


@pytest.mark.process
@pytest.mark.row("API-077", "API-071")
def test_a_forked_child_is_told_and_can_send(tmp_path):
    app = Umbel("forks", broker=f"sqlite:////{tmp_path}/q.db", set_as_current=False)
    told = []

    @app.on_after_fork.connect
    def tell(sender, **_):
        told.append(sender)

    before = app.oid, app.thread_oid
    app.send_task("from.parent")

    child = os.fork()
    if child == 0:
        try:
            app.send_task("from.child")
            fine = told == [app] and app.oid != before[0] and app.thread_oid != before[1]
        finally:
            os._exit(0 if fine else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with app, app.lend_broker() as broker:
        assert broker.sizes()["celery"].ready == 2
