"""Settings come from many places, and the right one wins."""

import json
import pickle
import re
import sys
import types
from datetime import timedelta
from pathlib import Path

import pytest

from umbel.app.settings import Settings, parse_assignments, strtobool
from umbel.app.settings_table import BY_NAME, SETTINGS
from umbel.exceptions import CDeprecationWarning, CeleryWarning, ImproperlyConfigured, NotConfigured

GOLDEN = Path(__file__).parents[1] / "golden"


def settings(source=None, namespace=None, *, environ=(), silent=False, **options):
    """Return settings that read *source*, in an environment of their own."""
    conf = Settings(environ=dict(environ), **options)
    if source is not None:
        conf.config_from_object(source, namespace=namespace, silent=silent)
    return conf


def module(**names):
    """Return a module with these *names*."""
    made = types.ModuleType("made")
    made.__dict__.update(names)
    return made


# -- The table ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("CFG-272", *(f"CFG-{number}" for number in range(274, 287)))
@pytest.mark.row(*(f"CFG-{number:03}" for number in range(12, 219)))
def test_names_defaults_and_types_are_those_recorded_from_celery():
    recorded = json.loads((GOLDEN / "settings.json").read_text())["settings"]

    ours = {
        name: [setting.kind, repr(setting.celery_default), setting.old_name]
        for name, setting in BY_NAME.items()
        if name in recorded
    }

    better = {  # the recorded type would make text of a number, or refuse every value
        "beat_cron_starting_deadline": "int",
        "broker_heartbeat_checkrate": "float",
        "cassandra_auth_kwargs": "dict",
        "cassandra_port": "int",
        "result_compression": "string",
        "task_default_delivery_mode": "any",
        "task_default_priority": "int",
    }
    assert ours == {name: [better.get(name, kind), *rest] for name, (kind, *rest) in recorded.items()}


def test_every_setting_says_in_one_line_what_it_means():
    for setting in SETTINGS:
        assert setting.doc.endswith(".")
        assert "\n" not in setting.doc


@pytest.mark.row("CFG-287")
@pytest.mark.row(*(f"CFG-{number}" for number in range(219, 247)), "CFG-273")
@pytest.mark.parametrize(
    "name",
    [
        "override_backends",
        "redis_backend_health_check_interval",
        "redis_backend_credential_provider",
        "redis_client_name",
        "result_backend_thread_safe",
        "cassandra_secure_bundle_path",
        "dynamodb_endpoint_url",
        "gcs_threadpool_maxsize",
        "firestore_project",
        "db_reuse_max",
        *(
            f"{command}_{option}"
            for command in ("worker", "beat", "events")
            for option in ("logfile", "pidfile", "uid", "gid", "umask", "executable")
        ),
    ],
)
def test_settings_that_celery_reads_without_listing_them_are_listed_here(name):
    assert name in BY_NAME


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("accept_content", ("json",)),
        ("task_serializer", "json"),
        ("task_protocol", 2),
        ("result_expires", timedelta(days=1)),
        ("result_backend_max_retries", float("inf")),
        ("worker_prefetch_multiplier", 4),
        ("task_default_queue", "celery"),
        ("beat_scheduler", "celery.beat:PersistentScheduler"),
        ("broker_pool_limit", 10),
        ("task_crash_limit", 5),
        ("task_lease", 30.0),
        ("publish_timeout", 5.0),
        ("broker_url", None),
        ("timezone", None),
    ],
)
def test_defaults(name, default):
    assert settings()[name] == default


@pytest.mark.row("CFG-033")
def test_tasks_are_acknowledged_late_unless_umbel_stands_in_for_celery():
    assert settings().task_acks_late is True
    assert settings(as_celery=True).task_acks_late is False


@pytest.mark.row("CFG-129", "CFG-131")
def test_the_default_exchange_and_key_are_named_as_the_default_queue():
    conf = settings({"task_default_queue": "mail"})

    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("mail", "mail")
    conf.task_default_routing_key = "m"
    assert conf.task_default_routing_key == "m"


def test_a_default_that_can_be_changed_belongs_to_one_app():
    first, second = settings(), settings()

    first.beat_schedule["clean"] = {}
    first.task_serializer = "pickle"

    assert first.beat_schedule == {"clean": {}}
    assert second.beat_schedule == {}


# -- Which place wins --------------------------------------------------------------------------------------------------


@pytest.mark.row("CFG-001", "API-010", "API-011", "API-012", "API-050")
def test_what_is_assigned_wins_over_the_config_object_over_added_defaults_over_ours():
    conf = settings({"timezone": "object", "task_serializer": "object", "event_serializer": "object"})
    conf.add_defaults({"task_serializer": "added", "event_serializer": "added", "result_serializer": "first"})
    conf.add_defaults(lambda: {"result_serializer": "last"})
    conf.timezone = "assigned"

    assert conf.timezone == "assigned"
    assert conf.task_serializer == "object"
    assert conf.result_serializer == "last"
    assert conf.task_protocol == 2


@pytest.mark.row("CFG-001")
def test_what_is_given_at_the_start_wins_over_a_config_object_named_later():
    conf = settings(changes={"broker_url": "amqp://given"})

    conf.config_from_object({"broker_url": "amqp://object", "timezone": "Europe/Paris"})

    assert (conf.broker_url, conf.timezone) == ("amqp://given", "Europe/Paris")


def test_defaults_may_be_added_after_loading():
    conf = settings()
    assert conf.task_serializer == "json"

    conf.add_defaults({"CELERY_TASK_SERIALIZER": "yaml"})

    assert conf.task_serializer == "yaml"


@pytest.mark.row("CFG-002", "CFG-040", "CFG-133", "CFG-134", "CFG-135")
def test_urls_from_the_environment_win_at_any_time():
    environ = {"CELERY_BROKER_URL": "amqp://env", "CELERY_RESULT_BACKEND": "redis://env"}
    conf = Settings({"broker_url": "amqp://given"}, environ=environ)
    conf.result_backend = "redis://assigned"

    assert (conf.broker_url, conf["broker_url"], conf.result_backend) == ("amqp://env", "amqp://env", "redis://env")
    assert (conf.broker_read_url, conf.broker_write_url) == ("amqp://env", "amqp://env")
    environ.update(CELERY_BROKER_READ_URL="amqp://read", CELERY_BROKER_WRITE_URL="amqp://write")
    assert (conf.broker_read_url, conf.broker_write_url) == ("amqp://read", "amqp://write")
    environ.clear()
    assert (conf.broker_read_url, conf.result_backend) == ("amqp://given", "redis://assigned")


@pytest.mark.row("CFG-015")
def test_the_timezone_of_a_django_project_is_ours_unless_we_have_our_own():
    assert settings({"TIME_ZONE": "Europe/Berlin"}).timezone == "Europe/Berlin"
    assert settings({"TIME_ZONE": "Europe/Berlin"}, "CELERY").timezone == "Europe/Berlin"
    assert settings({"TIME_ZONE": "A", "CELERY_TIMEZONE": "B"}, "CELERY").timezone == "B"
    assert settings({"TIME_ZONE": "A", "timezone": "B"}).timezone == "B"


# -- Config objects ----------------------------------------------------------------------------------------------------


class Defaults:
    task_serializer = "yaml"


class Config(Defaults):
    timezone = "Europe/Berlin"

    def some_method(self):
        """Be no setting."""


@pytest.mark.row("API-047")
@pytest.mark.parametrize("source", [Config, Config(), module(timezone="Europe/Berlin", task_serializer="yaml")])
def test_an_object_may_hold_the_configuration(source):
    conf = settings(source)

    assert (conf.timezone, conf.task_serializer) == ("Europe/Berlin", "yaml")


@pytest.mark.row("API-047", "CFG-009")
def test_a_module_or_an_object_in_it_may_be_named_and_is_read_when_a_setting_is(monkeypatch):
    conf = settings("late_module:production")
    other = settings("late_module.production")
    monkeypatch.setitem(sys.modules, "late_module", module(production=Config))

    assert not conf.loaded
    assert conf.timezone == other.timezone == "Europe/Berlin"
    assert conf.loaded


@pytest.mark.row("CFG-009")
@pytest.mark.parametrize("name", ["no_such_module", "json:nope", "json.nope"])
def test_a_missing_module_is_an_error_when_a_setting_is_read(name):
    conf = settings(name)

    with pytest.raises(ModuleNotFoundError):
        conf.timezone  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        conf.get("timezone")
    assert settings(name, silent=True).timezone is None


@pytest.mark.row("CFG-009")
def test_an_attribute_error_while_loading_does_not_look_like_a_missing_setting():
    conf = settings(before_load=lambda: object().nothing)

    with pytest.raises(ModuleNotFoundError, match="nothing"):
        conf.timezone  # noqa: B018


@pytest.mark.row("API-047")
def test_force_reads_the_configuration_at_once():
    with pytest.raises(ModuleNotFoundError):
        settings().config_from_object("no_such_module", force=True)


@pytest.mark.row("CFG-002")
def test_the_environment_may_name_the_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "named_module", Config)

    assert settings(environ={"CELERY_CONFIG_MODULE": "named_module"}).timezone == "Europe/Berlin"
    with pytest.raises(ModuleNotFoundError):
        settings(environ={"CELERY_CONFIG_MODULE": "no_such_module"}).finalize()


@pytest.mark.row("CFG-002")
def test_the_fallback_module_may_be_missing(monkeypatch):
    assert settings(fallback="no_such_module").timezone is None
    with pytest.warns(NotConfigured, match="no_such_module"):
        settings(fallback="no_such_module", environ={"C_WNOCONF": "1"}).finalize()

    monkeypatch.setitem(sys.modules, "fallback_module", Config)
    assert settings(fallback="fallback_module").timezone == "Europe/Berlin"


@pytest.mark.row("API-074", "API-075")
def test_hooks_run_before_and_after_loading_and_may_read_and_write():
    seen = []

    def before():
        seen.append(("before", conf.timezone))
        conf.task_serializer = "yaml"

    conf = settings(
        {"timezone": "A"}, before_load=before, after_load=lambda it: seen.append((it.timezone, it.task_serializer))
    )
    conf.finalize()
    conf.finalize()

    assert seen == [("before", None), ("A", "yaml")]


@pytest.mark.row("CFG-004")
@pytest.mark.parametrize(
    ("source", "namespace", "expected"),
    [
        ({"CELERY_TIMEZONE": "A", "CELERY_WORKER_CONCURRENCY": 3}, "CELERY", ("A", 3)),
        ({"CELERY_TIMEZONE": "A", "CELERY_WORKER_CONCURRENCY": 3}, "CELERY_", ("A", 3)),
        ({"celery_timezone": "A", "celery_worker_concurrency": 3}, "celery", ("A", 3)),
        ({"timezone": "A", "CELERY_WORKER_CONCURRENCY": 3, "worker_concurrency": 4}, "CELERY", ("A", 3)),
        ({"CELERY_TIMEZONE": "A", "CELERYD_CONCURRENCY": 3}, "CELERY", ("A", 3)),
        ({"CELERY_TIMEZONE": "A", "WORKER_CONCURRENCY": 3}, "CELERY", ("A", None)),
    ],
)
def test_with_a_namespace_settings_have_its_prefix(source, namespace, expected):
    conf = settings(source, namespace)

    assert (conf.timezone, conf.worker_concurrency) == expected


@pytest.mark.row("CFG-004")
def test_settings_of_the_users_own_are_read_with_and_without_the_prefix():
    conf = settings({"CELERY_FOO": 1, "bar": 2}, "CELERY")

    assert (conf.foo, conf.bar, conf.CELERY_FOO, conf.CELERY_BROKER_URL) == (1, 2, 1, None)
    assert "foo" in list(conf)


# -- Old names ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("CFG-003")
def test_old_names_are_read_and_known():
    conf = settings({"CELERY_TIMEZONE": "A", "BROKER_URL": "amqp://h"})

    assert (conf.timezone, conf.CELERY_TIMEZONE, conf["BROKER_URL"]) == ("A", "A", "amqp://h")
    assert conf.deprecated_settings == {"CELERY_TIMEZONE", "BROKER_URL"}
    conf.CELERY_TIMEZONE = "B"
    assert conf.timezone == "B"


@pytest.mark.row("CFG-003")
@pytest.mark.parametrize(
    ("source", "rename"),
    [
        ({"timezone": "A", "CELERY_TASK_SERIALIZER": "yaml"}, "CELERY_TASK_SERIALIZER +-> task_serializer"),
        (
            {"CELERY_TIMEZONE": "A", "BROKER_URL": "amqp://", "task_serializer": "yaml"},
            "task_serializer +-> CELERY_TASK_SERIALIZER",
        ),
    ],
)
def test_old_and_new_names_together_are_refused_in_favour_of_the_majority(source, rename):
    with pytest.raises(ImproperlyConfigured, match=rename):
        settings(source).finalize()


@pytest.mark.row("CFG-003")
def test_a_setting_may_stand_under_both_of_its_names():
    assert settings({"timezone": "A", "CELERY_TIMEZONE": "B", "task_serializer": "yaml"}).timezone == "A"


@pytest.mark.row("CFG-003")
def test_with_a_namespace_names_may_be_mixed():
    assert settings({"CELERY_TIMEZONE": "A", "task_serializer": "yaml"}, "CELERY").task_serializer == "yaml"


@pytest.mark.row("CFG-228")
def test_the_one_name_that_is_neither_old_nor_new_mixes_with_all():
    conf = settings({"timezone": "A", "CELERY_DB_REUSE_MAX": 5})

    assert conf.db_reuse_max == 5
    assert conf.deprecated_settings == frozenset()


@pytest.mark.row("CFG-005")
def test_old_names_are_warned_of_with_what_to_do(monkeypatch):
    conf = settings({"CELERY_TIMEZONE": "A"})
    with pytest.warns(CDeprecationWarning, match=r"CELERY_TIMEZONE is called 'timezone' now.*umbel upgrade settings"):
        assert conf.maybe_warn_deprecated_settings() is True

    django = module(settings=module(CELERY_TIMEZONE="A"))
    monkeypatch.setitem(sys.modules, "django.conf", django)
    assert settings("django.conf:settings").maybe_warn_deprecated_settings() is False
    assert settings({"CELERY_TIMEZONE": "A"}, "CELERY").maybe_warn_deprecated_settings() is False


# -- Misspelt names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("worker_concurency", "worker_concurrency"),
        ("task_serialiser", "task_serializer"),
        ("time_zone", "timezone"),
        ("enable_UTC", "enable_utc"),
        ("acks_late", "task_acks_late"),
        ("concurrency", "worker_concurrency"),
        ("task_retries", "task_routes"),
    ],
)
def test_a_misspelt_setting_is_refused_with_a_suggestion(name, meant):
    sentence = f"no setting is called '{name}'; did you mean '{meant}'"

    with pytest.raises(ImproperlyConfigured, match=sentence):
        settings(changes={name: 1})
    with pytest.raises(ImproperlyConfigured, match=sentence):
        setattr(settings(), name, 1)
    with pytest.raises(ImproperlyConfigured, match=sentence):
        settings({name: 1}).finalize()


def test_nothing_is_set_when_one_of_many_is_misspelt():
    conf = settings()

    with pytest.raises(ImproperlyConfigured):
        conf.update(timezone="A", worker_concurency=3)

    assert conf.timezone is None


@pytest.mark.parametrize(
    "name", ["redbeat_redis_url", "singleton_backend_url", "beat_dburi", "beat_schema", "my_setting", "ONCE", "url"]
)
def test_settings_of_other_packages_are_kept(name):
    conf = settings({name: 1})
    assert conf[name] == 1

    conf = settings()
    setattr(conf, name, 2)
    assert (conf[name], getattr(conf, name), name in conf, name in list(conf)) == (2, 2, True, True)


def test_a_misspelt_setting_in_a_module_or_behind_a_prefix_is_refused_too():
    with pytest.raises(ImproperlyConfigured, match="'task_serializer'"):
        settings(module(task_serialiser="json")).finalize()
    with pytest.raises(ImproperlyConfigured, match="'CELERY_TASK_SERIALIZER'"):
        settings(module(CELERY_TASK_SERIALISER="json"), "CELERY").finalize()


def test_other_names_in_a_module_are_none_of_our_business():
    def task_router():
        """Be a function, though close to task_routes."""

    names = {
        "DEBUG": True,
        "SECRET": "x",
        "task_route": task_router,
        "worker_names": ["a"],
        "os": sys,
        "CELERY_ONCE": {},
    }

    settings(module(**names)).finalize()
    settings(module(**names), "CELERY").finalize()


def test_under_celerys_name_a_misspelt_setting_is_only_warned_of():
    with pytest.warns(CeleryWarning, match="worker_concurrency"):
        settings(changes={"worker_concurency": 3}, as_celery=True)


@pytest.mark.row("CFG-004")
def test_a_forgotten_namespace_is_noticed():
    with pytest.warns(CeleryWarning, match=r"namespace='CELERY': CELERY_BROKER_URL"):
        settings(module(CELERY_BROKER_URL="amqp://h", CELERY_TIMEZONE="A")).finalize()


# -- Reading and writing -----------------------------------------------------------------------------------------------


@pytest.mark.row("CFG-006")
def test_a_setting_is_read_as_attribute_as_item_and_by_get():
    conf = settings({"timezone": "A"})

    assert conf.timezone == conf["timezone"] == conf.get("timezone") == "A"
    assert conf.get("nothing", 3) == 3
    assert "timezone" in conf
    assert "nothing" not in conf
    with pytest.raises(AttributeError, match="did you mean 'timezone'"):
        conf.timezon  # noqa: B018
    with pytest.raises(KeyError):
        conf["nothing"]


@pytest.mark.row("CFG-006")
def test_writing_changes_only_the_top_layer():
    source = {"timezone": "A"}
    conf = settings(source)

    conf.timezone = "B"
    conf["task_serializer"] = "yaml"

    assert source == {"timezone": "A"}
    assert conf.changes == {"timezone": "B", "task_serializer": "yaml"}
    del conf.timezone
    assert conf.timezone == "A"
    with pytest.raises(AttributeError, match="not assigned"):
        del conf.timezone


@pytest.mark.row("CFG-006", "API-464")
def test_observers_hear_which_settings_changed():
    heard = []
    conf = settings()
    conf.on_change(heard.append)

    conf.update({"task_routes": {"a": "b"}}, CELERY_TIMEZONE="A")
    conf.task_serializer = "yaml"
    del conf["task_serializer"]

    assert heard == [{"task_routes", "timezone"}, {"task_serializer"}, {"task_serializer"}]


def test_naming_another_config_object_changes_everything_and_is_heard():
    heard = []
    conf = settings({"timezone": "A"})
    conf.on_change(heard.append)
    assert conf.timezone == "A"

    conf.config_from_object({"timezone": "B"})

    assert conf.timezone == "B"
    assert "timezone" in heard[0]


def test_the_first_setting_that_is_there_is_found():
    conf = settings({"my_setting": 1, "MY_OTHER": 2})

    assert conf.first("no_setting", "my_setting", "MY_OTHER") == 1
    assert conf.first("no_setting") is None


def test_a_config_object_that_changed_is_read_anew_on_request():
    source = module(timezone="A")
    conf = settings(source)
    assert conf.timezone == "A"

    source.timezone = "B"
    conf.refresh()

    assert conf.timezone == "B"


@pytest.mark.row("CFG-008")
def test_all_settings_can_be_listed_and_counted():
    conf = settings({"my_setting": 1})

    assert len(conf) == 244
    assert dict(conf)["my_setting"] == 1
    assert set(BY_NAME) < set(conf.keys())
    assert "task_serializer" in dir(conf)


@pytest.mark.row("CFG-008")
def test_settings_are_found_by_parts_of_their_names():
    conf = settings({"worker_pool": "solo"})

    assert conf.find_option("concurrency")[:2] == ("worker", "concurrency")
    assert conf.find_option("url")[:2] == ("broker", "url")
    assert conf.find_option("prefetch_multiplier", "worker").type.default == 4
    assert conf.find_option("worker_pool")[:2] == (None, "worker_pool")
    assert conf.find_value_for_key("pool", "worker") == "solo"
    assert conf.find_value_for_key("worker_pool") == "solo"
    assert conf.get_by_parts("worker", "", "pool") == "solo"
    with pytest.raises(KeyError):
        conf.find_option("nothing")


@pytest.mark.row("CFG-008")
def test_what_was_set_is_told_from_what_is_a_default():
    conf = settings({"timezone": "A"}, changes={"task_serializer": "yaml"})

    assert conf.value_set_for("timezone")
    assert conf.value_set_for("CELERY_TASK_SERIALIZER")
    assert not conf.value_set_for("task_protocol")
    assert conf.without_defaults() == {"timezone": "A", "task_serializer": "yaml"}


@pytest.mark.row("CFG-008")
def test_a_copy_starts_the_same_and_changes_on_its_own():
    conf = settings({"timezone": "A"}, changes={"task_serializer": "yaml"})
    conf.add_defaults({"task_protocol": 1})

    copy = conf.copy()
    copy.timezone = "B"

    assert (copy.timezone, copy.task_serializer, copy.task_protocol) == ("B", "yaml", 1)
    assert conf.timezone == "A"


@pytest.mark.row("CFG-007")
def test_secrets_are_not_shown():
    conf = settings(
        {
            "broker_url": "amqp://u:geheim@h/v",
            "result_backend": "redis://:geheim@h",
            "security_key": "geheim",
            "broker_transport_options": {"sentinel_kwargs": {"password": "geheim"}},
        }
    )

    assert conf.table() == {
        "broker_url": "amqp://u:********@h/v",
        "result_backend": "redis://:********@h",
        "security_key": "********",
        "broker_transport_options": {"sentinel_kwargs": {"password": "********"}},
    }
    assert "geheim" not in conf.humanize(with_defaults=True) + repr(conf)
    assert "broker_url: 'amqp://u:********@h/v'" in conf.humanize().splitlines()
    assert conf.table(censored=False)["security_key"] == "geheim"
    assert len(conf.table(with_defaults=True)) == len(conf)


def test_frozen_settings_keep_what_was_true():
    conf = settings({"timezone": "A", "my_setting": 1})

    frozen = conf.frozen()
    conf.timezone = "B"

    assert (frozen.timezone, frozen["timezone"], frozen.get("timezone"), frozen.CELERY_TIMEZONE) == ("A",) * 4
    assert (frozen.my_setting, frozen.get("nothing", 3), "timezone" in frozen) == (1, 3, True)
    assert pickle.loads(pickle.dumps(frozen)).timezone == "A"
    with pytest.raises(AttributeError, match="frozen"):
        frozen.timezone = "C"
    with pytest.raises(AttributeError, match="did you mean 'timezone'"):
        frozen.timezon  # noqa: B018


# -- The command line --------------------------------------------------------------------------------------------------


@pytest.mark.row("CFG-010", "API-049")
@pytest.mark.parametrize(
    ("argument", "namespace", "expected"),
    [
        ("worker.concurrency=3", "worker", {"worker_concurrency": 3}),
        (".concurrency=auto", "worker", {"worker_concurrency": "auto"}),
        ("concurrency=3", "worker", {"worker_concurrency": 3}),
        ("broker.pool_limit=5", "worker", {"broker_pool_limit": 5}),
        ("timezone=Europe/Berlin", "worker", {"timezone": "Europe/Berlin"}),
        (".timezone=UTC", "celery", {"timezone": "UTC"}),
        ("celery.timezone=UTC", "worker", {"timezone": "UTC"}),
        ("beat.max_loop_interval=3", "celery", {"beat_max_loop_interval": 3.0}),
        ("CELERYD_CONCURRENCY=3", "celery", {"worker_concurrency": 3}),
        ("enable_utc=off", "worker", {"enable_utc": False}),
        ("imports=a, b", "worker", {"imports": ("a", "b")}),
        ("accept_content=json,yaml", "worker", {"accept_content": ["json", "yaml"]}),
        ('accept_content=["json"]', "worker", {"accept_content": ["json"]}),
        ('broker_transport_options={"a": 1}', "worker", {"broker_transport_options": {"a": 1}}),
        ("task_time_limit=none", "worker", {"task_time_limit": None}),
        ("security_key_password=x", "worker", {"security_key_password": b"x"}),
        ("broker_url=redis://h/?a=b", "worker", {"broker_url": "redis://h/?a=b"}),
        (".prefetch_multiplier=(float)3", "worker", {"worker_prefetch_multiplier": 3.0}),
        ("worker_concurrency=(int)3", "worker", {"worker_concurrency": 3}),
        ("worker_concurrency=(string)3", "worker", {"worker_concurrency": "3"}),
        ("task_routes=(json)[1]", "worker", {"task_routes": [1]}),
        ("task_routes=(list)a,b", "worker", {"task_routes": ["a", "b"]}),
        ("task_routes=(tuple)a", "worker", {"task_routes": ("a",)}),
        ("broker_use_ssl=(bool)on", "worker", {"broker_use_ssl": True}),
        ('broker_use_ssl=(dict){"a": 1}', "worker", {"broker_use_ssl": {"a": 1}}),
        ("worker_concurrency=(any)3", "worker", {"worker_concurrency": 3}),
    ],
)
def test_settings_are_read_from_the_command_line(argument, namespace, expected):
    assert parse_assignments([argument], namespace=namespace) == expected


@pytest.mark.row("CFG-010", "CFG-011")
@pytest.mark.parametrize(
    ("argument", "error", "text"),
    [
        ("worker.concurency=3", ImproperlyConfigured, "did you mean 'worker_concurrency'"),
        (".timezone=UTC", ImproperlyConfigured, "'.timezone'"),
        ("timezone", ImproperlyConfigured, "key=value"),
        ("task_protocol=two", ValueError, "'task_protocol=two' is no int"),
        ("broker_transport_options=a", ValueError, "broker_transport_options=a"),
        ("timezone=(zone)UTC", ValueError, "unknown kind 'zone'"),
        ("enable_utc=maybe", TypeError, "'maybe' is no boolean"),
    ],
)
def test_what_cannot_be_read_from_the_command_line_is_named(argument, error, text):
    with pytest.raises(error, match=re.escape(text)):
        parse_assignments([argument], namespace="worker")


@pytest.mark.row("CFG-011")
def test_truth_has_several_spellings():
    assert [strtobool(text) for text in ("true", "YES", "1", "On")] == [True] * 4
    assert [strtobool(text) for text in ("false", "No", "0", "OFF")] == [False] * 4
