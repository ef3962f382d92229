"""Say where the names stand that Celery has in other modules than umbel."""

from __future__ import annotations

import sys
from typing import Any, Final

from umbel.app.version import Version

__all__ = ["ELSEWHERE", "FACTS", "GONE", "PACKAGES", "VERSION"]

VERSION: Final = Version(5, 7, 0)  # of the Celery that umbel is compatible with
_TEXT: Final = ".".join(map(str, VERSION[:3]))

# fmt: off
FACTS: Final[dict[str, dict[str, Any]]] = {
    "celery": {
        "VERSION": VERSION, "version_info": VERSION, "__version__": _TEXT, "SERIES": "umbel",
        "VERSION_BANNER": f"{_TEXT} (umbel)",
    },
    "celery.loaders.default": {"DEFAULT_CONFIG_MODULE": "celeryconfig"},
    "celery.platforms": {
        "EX_OK": 0, "EX_FAILURE": 1, "EX_USAGE": 64, "EX_UNAVAILABLE": 69, "EX_CANTCREAT": 73,
        "IS_macOS": sys.platform == "darwin", "IS_WINDOWS": sys.platform == "win32",
    },
    "celery.utils": {
        "LOG_LEVELS": {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50, "FATAL": 50},
    },
}
"""Values by module."""

PACKAGES: Final = frozenset({
    "celery.apps", "celery.backends", "celery.bin", "celery.concurrency", "celery.loaders", "celery.utils.dispatch",
})
"""Packages of Celery that umbel has no place for; modules below them it has."""

_ROOT: Final = (
    "Celery", "Signature", "Task", "bugreport", "chain", "chord", "chunks", "current_app", "current_task", "group",
    "maybe_signature", "shared_task", "signature", "subtask", "uuid", "xmap", "xstarmap",
)
_CURRENT: Final = {name: f"umbel.current:{name}" for name in (
    "current_app", "current_task", "get_current_app", "get_current_task", "get_current_worker_task", "set_default_app",
)}

ELSEWHERE: Final[dict[str, dict[str, str]]] = {
    "celery": {
        **{name: f"umbel:{name}" for name in _ROOT},
        "maybe_patch_concurrency": "umbel.compat.pieces:maybe_patch_concurrency",
    },
    "celery.__main__": {"main": "umbel.cli.main:main"},
    "celery._state": {
        **_CURRENT,
        "app_or_default": "umbel.current:app_or_default",
        "connect_on_app_finalize": "umbel.current:share",
        "_set_current_app": "umbel.current:set_current_app",
        "_get_active_apps": "umbel.current:live_apps",
    },
    "celery.app": {
        "Celery": "umbel.app.app:Umbel",
        "Task": "umbel.app.task:Task",
        "app_or_default": "umbel.current:app_or_default",
        "bugreport": "umbel.app.report:bugreport",
        "current_app": "umbel.current:current_app",
        "current_task": "umbel.current:current_task",
        "default_app": "umbel.current:current_app",
        "shared_task": "umbel.app.app:shared_task",
    },
    "celery.app.base": {"Celery": "umbel.app.app:Umbel"},
    "celery.app.trace": {
        "build_tracer": "umbel.compat.pieces:build_tracer",
        "task_has_custom": "umbel.compat.pieces:task_has_custom",
    },
    "celery.app.utils": {
        "Settings": "umbel.app.settings:Settings",
        "bugreport": "umbel.app.report:bugreport",
        "find_app": "umbel.cli.find_app:find_app",
        "sanitize_url": "umbel._repr:mask_url",
    },
    "celery.app.defaults": {"NAMESPACES": "umbel.app.settings_table:SETTINGS"},
    "celery.apps.beat": {"Beat": "umbel.beat:Service"},
    "celery.apps.multi": {"Cluster": "umbel.cli.multi:Cluster", "Node": "umbel.cli.multi:Node"},
    "celery.apps.worker": {"Worker": "umbel.worker.worker:Worker"},
    "celery.backends.base": {
        "Backend": "umbel.app.store:ResultStore",
        "BaseBackend": "umbel.app.store:ResultStore",
        "DisabledBackend": "umbel.compat.pieces:DisabledBackend",
    },
    "celery.backends.rpc": {"BacklogLimitExceeded": "umbel.compat.pieces:BacklogLimitExceeded"},
    "celery.bin.celery": {"celery": "umbel.cli.main:cli", "main": "umbel.cli.main:main"},
    "celery.bin.base": {
        "CLIContext": "umbel.cli.session:Session",
        "CeleryCommand": "umbel.cli.base:Command",
        "CeleryDaemonCommand": "umbel.cli.base:Command",
        "CeleryOption": "click:Option",
        "handle_preload_options": "umbel.compat.pieces:handle_preload_options",
    },
    "celery.bin.worker": {"worker": "umbel.cli.worker:command"},
    "celery.bin.beat": {"beat": "umbel.cli.beat:command"},
    "celery.exceptions": {"reraise": "umbel.compat.pieces:reraise"},
    "celery.execute": {"send_task": "umbel.compat.pieces:send_task"},
    "celery.loaders": {"get_loader_cls": "umbel.compat.pieces:get_loader_cls"},
    "celery.loaders.app": {"AppLoader": "umbel.app.loader:Loader"},
    "celery.loaders.base": {"BaseLoader": "umbel.app.loader:Loader"},
    "celery.loaders.default": {"Loader": "umbel.app.loader:Loader"},
    "celery.local": {"PromiseProxy": "umbel.local:Proxy"},
    "celery.log": {"get_default_logger": "umbel.utils.log:get_logger"},
    "celery.platforms": {name: f"umbel.cli.platforms:{name}" for name in (
        "DaemonContext", "LockFailed", "Pidfile", "Signals", "create_pidlock", "detached", "maybe_drop_privileges",
        "set_process_title", "signals",
    )},
    "celery.registry": {"tasks": "umbel.compat.pieces:tasks"},
    "celery.result": {"Thenable": "umbel.result:ResultBase"},
    "celery.utils": {
        "cached_property": "functools:cached_property",
        "chunks": "umbel.compat.pieces:chunks",
        "gen_task_name": "umbel.compat.pieces:gen_task_name",
        "gen_unique_id": "umbel._names:uuid",
        "get_cls_by_name": "umbel._names:symbol_by_name",
        "get_full_cls_name": "umbel.compat.pieces:qualname",
        "import_from_cwd": "umbel._names:import_from_cwd",
        "instantiate": "umbel.compat.pieces:instantiate",
        "memoize": "functools:lru_cache",
        "nodename": "umbel._names:nodename",
        "nodesplit": "umbel._names:nodesplit",
        "noop": "umbel.compat.pieces:noop",
        "uuid": "umbel._names:uuid",
        "worker_direct": "umbel.utils.nodenames:worker_direct",
    },
    "celery.utils.collections": {
        **{name: f"umbel.compat.collections:{name}" for name in (
            "AttributeDict", "BufferMap", "ConfigurationView", "DictAttribute", "LimitedSet",
        )},
        "ChainMap": "collections:ChainMap",
        "OrderedDict": "collections:OrderedDict",
    },
    "celery.utils.dispatch": {"Signal": "umbel.signals:Signal"},
    "celery.utils.dispatch.signal": {"Signal": "umbel.signals:Signal"},
    "celery.utils.functional": {
        "chunks": "umbel.compat.pieces:chunks",
        "dictfilter": "umbel.compat.pieces:dictfilter",
        "first": "umbel.compat.pieces:first",
        "is_list": "umbel.compat.pieces:is_list",
        "maybe_evaluate": "umbel.local:maybe_evaluate",
        "maybe_list": "umbel.compat.pieces:maybe_list",
        "memoize": "functools:lru_cache",
        "noop": "umbel.compat.pieces:noop",
    },
    "celery.utils.imports": {
        "cwd_in_path": "umbel._names:cwd_importable",
        "gen_task_name": "umbel.compat.pieces:gen_task_name",
        "import_from_cwd": "umbel._names:import_from_cwd",
        "NotAPackage": "umbel.app.loader:NotAPackage",
        "instantiate": "umbel.compat.pieces:instantiate",
        "qualname": "umbel.compat.pieces:qualname",
        "symbol_by_name": "umbel._names:symbol_by_name",
    },
    "celery.utils.iso8601": {"parse_iso8601": "umbel.utils.time:maybe_iso8601"},
    "celery.utils.log": {
        "ColorFormatter": "umbel.app.log:ColorFormatter",
        "LoggingProxy": "umbel.app.log:LoggingProxy",
        "base_logger": "umbel.compat.pieces:base_logger",
    },
    "celery.utils.objects": {"Bunch": "types:SimpleNamespace"},
    "celery.utils.saferepr": {"saferepr": "umbel._repr:safe_repr"},
    "celery.utils.serialization": {
        "b64decode": "umbel.compat.pieces:b64decode",
        "b64encode": "umbel.compat.pieces:b64encode",
        "get_pickleable_exception": "umbel.compat.pieces:get_pickleable_exception",
        "jsonify": "umbel.compat.pieces:jsonify",
        "raise_with_context": "umbel.compat.pieces:raise_with_context",
        "strtobool": "umbel.compat.pieces:strtobool",
    },
    "celery.utils.sysinfo": {"load_average": "os:getloadavg"},
    "celery.utils.text": {
        "dedent": "textwrap:dedent",
        "pluralize": "umbel.compat.pieces:pluralize",
        "str_to_list": "umbel.compat.pieces:str_to_list",
        "truncate": "umbel.compat.pieces:truncate",
    },
    "celery.utils.threads": {"get_ident": "threading:get_ident"},
    "celery.worker": {
        "WorkController": "umbel.worker.worker:Worker",
        "Worker": "umbel.worker.worker:Worker",
    },
    "celery.security": {
        "disable_untrusted_serializers": "umbel.app.security:disable_untrusted_serializers",
        "setup_security": "umbel.app.security:setup_security",
    },
    "celery.worker.request": {"Context": "umbel.app.task:Context"},
}
"""Names by module of Celery, and where umbel has them. A module that umbel has too gets those that it lacks there."""

_NO_POOL: Final = "a pool is a word for 'worker_pool' (umbel.pools.kinds); write no subclass, let the worker make it"
_NO_CONSUMER: Final = "a worker is a loop over values (umbel.worker.core); use signals, app.steps, or remote commands"
_NO_DELIVERY_CLASS: Final = "let the task name a subclass of umbel.worker.request.Request, which is told of deliveries"

GONE: Final[dict[str, str]] = {
    "celery.app.autoretry": "autoretry_for is an option of @app.task",
    "celery.app.trace": "a task is run by umbel.execution.execute; use signals or a subclass of Task",
    "celery.app.backends": "name a store by the URL in 'result_backend'",
    "celery.backends.base.BaseDictBackend": "a store of your own implements umbel.backends.base.Backend",
    "celery.backends.base.KeyValueStoreBackend": "a store of your own implements umbel.backends.base.Backend",
    "celery.backends.asynchronous": "umbel's stores wake who waits by themselves (umbel.backends.base.Watch)",
    "celery.backends": "name a store by the URL in 'result_backend'; a new one implements umbel.backends.base.Backend",
    "celery.bin": "commands are click commands in umbel.cli; add yours by the entry point group 'umbel.commands'",
    "celery.concurrency": _NO_POOL,
    "celery.contrib.rdb": "use breakpoint() in the pool 'solo', or debugpy",
    "celery.contrib.testing": "use umbel.contrib.pytest, umbel.contrib.testing.worker and umbel.contrib.testing.app",
    "celery.events.cursesmon": "use 'umbel events'",
    "celery.task": "Celery 5 removed it; use umbel.shared_task and app.task",
    "celery.messaging": "Celery 5 keeps it only as a shadow; use app.connection_for_write()",
    "celery.utils": "it was Celery's own; the standard library or a small function of yours does it",
    "celery.worker.components": _NO_CONSUMER,
    "celery.worker.consumer": _NO_CONSUMER,
    "celery.worker.heartbeat": _NO_CONSUMER,
    "celery.worker.loops": _NO_CONSUMER,
    "celery.worker.autoscale": "the worker grows and shrinks its pool by --autoscale",
    "celery.worker.pidbox": "commands are functions registered in umbel.worker.control",
    "celery.worker.request.create_request_cls": _NO_DELIVERY_CLASS,
    "celery.worker.state": "the state of a worker is umbel.worker.core.WorkerState; ask it by app.control.inspect()",
    "celery.worker.strategy": _NO_DELIVERY_CLASS,
}
"""What umbel does not have, with what to use instead; a line also speaks for all modules below it."""
# fmt: on
