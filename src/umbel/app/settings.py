"""Answer what a setting is worth, from all the places where it may be set.

Highest first: the environment (for the URLs), what was assigned or given to the app, the config object, the defaults
that libraries added, our own. The config object is read when the first setting is, not before.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

from umbel._names import close_match, did_you_mean, import_from_cwd, symbol_by_name
from umbel._repr import mask_secrets
from umbel.app.settings_table import BY_NAME, BY_OLD_NAME, Setting
from umbel.exceptions import CDeprecationWarning, CeleryWarning, ImproperlyConfigured, NotConfigured

__all__ = ["FoundOption", "FrozenSettings", "Settings", "parse_assignments", "strtobool"]

_MISSING: Final[Any] = object()

_ENVIRONMENT: Final = {  # what wins over everything, so that one deployment's URL is set in one place
    "broker_url": "CELERY_BROKER_URL",
    "broker_read_url": "CELERY_BROKER_READ_URL",
    "broker_write_url": "CELERY_BROKER_WRITE_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
}
_FOLLOWS: Final = {  # None means: as that one
    "broker_read_url": "broker_url",
    "broker_write_url": "broker_url",
    "task_default_exchange": "task_default_queue",
    "task_default_routing_key": "task_default_queue",
}
_OUR_GROUPS: Final = ("task_", "worker_", "broker_", "result_", "event_", "control_")
_NEITHER_OLD_NOR_NEW: Final = frozenset({"CELERY_DB_REUSE_MAX"})  # the only spelling Celery has


class FoundOption(NamedTuple):
    """A setting found by a part of its name."""

    namespace: str | None  # the part that was left out; None: the name was complete
    key: str
    type: Setting


class Settings(MutableMapping[str, Any]):
    """The settings of one app: ``conf.timezone``, ``conf["timezone"]``, ``conf.get("timezone")``.

    Old names are understood wherever a name is. Reading the first setting loads the configuration; setting one does
    not. Values set here win over the config object, whenever that is named.
    """

    # Names not found on the instance are resolved by __getattr__ and kept there until something changes, so that
    # reading a setting again costs what reading an attribute costs (benchmarks/micro_ground.py: 0.03 µs, not 3).

    def __init__(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        as_celery: bool = False,
        fallback: str | None = None,
        environ: Mapping[str, str] = os.environ,
        before_load: Callable[[], object] | None = None,
        after_load: Callable[[Settings], object] | None = None,
        import_module: Callable[[str], ModuleType] = import_from_cwd,
    ) -> None:
        """Take *changes* (settings that win over the config object).

        With *as_celery* the few defaults that differ are Celery's, and misspelt settings are warned of, not refused,
        since Celery ignores them. *fallback* names a module that is read, if it
        exists, when no config object is named. *before_load* is called before the config object is read, *after_load*
        when every setting can be read.

        Raises:
            ImproperlyConfigured: one of the *changes* is misspelt.
        """
        self._lock = threading.RLock()
        self._as_celery = as_celery
        self._fallback = fallback
        self._environ = environ
        self._before_load = before_load
        self._after_load = after_load
        self._import_module = import_module
        self._observers: list[Callable[[frozenset[str]], object]] = []
        self._own_defaults: dict[str, Any] = {}
        self._added: list[Mapping[str, Any] | Callable[[], Mapping[str, Any]]] = []
        self._added_values: list[Mapping[str, Any]] = []
        self._named: _Named = _Named(None, None, silent=False)
        self._source: _Source = _Source({}, None)
        self._state = "new"  # new, loading, loaded
        self._version = 0  # grows when a value that was looked up may be another now
        self._changes: dict[str, Any] = {}
        if changes:
            self.update(changes)

    # -- where settings come from

    def config_from_object(
        self, source: Any, *, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from *source*: an object, a mapping, or the name of a module or of an object in one.

        It is read when the first setting is, or now with *force*. With *namespace* ``CELERY`` a setting is called
        ``CELERY_TIMEZONE`` there. A *silent* source may be missing.
        """
        with self._lock:
            self._named = _Named(source, namespace, silent=silent)
            was_loaded, self._state = self._state == "loaded", "new"
            self._forget()
        if force:
            self.finalize()
        if was_loaded:
            self._notify(frozenset(BY_NAME))

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add values that win over our defaults only, later ones over earlier; a callable is called when loading."""
        with self._lock:
            self._added.insert(0, defaults)
            added = _evaluated(defaults) if self._state == "loaded" else {}
            self._added_values.insert(0, added)
            self._forget()
        self._notify(frozenset(added))

    def finalize(self) -> None:
        """Load the configuration now, if it is not loaded."""
        if self._state != "loaded":
            self._load()

    @property
    def loaded(self) -> bool:
        """Whether the configuration has been read."""
        return self._state == "loaded"

    @property
    def changes(self) -> dict[str, Any]:
        """What was assigned or given to the app."""
        return self._changes

    @property
    def deprecated_settings(self) -> frozenset[str]:
        """The old names that the config object uses."""
        return self._source.old_names if self._state == "loaded" else frozenset()

    def refresh(self) -> None:
        """Look up everything anew: the config object has changed (a test overrides Django's settings)."""
        self._forget()
        self._notify(frozenset(BY_NAME))

    # -- reading

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = self._get(name)
        if value is _MISSING:
            raise AttributeError(f"no setting is called {name!r}{did_you_mean(name, BY_NAME)}")
        return value

    def __getitem__(self, key: str) -> Any:
        value = self._get(key)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._get(key) is not _MISSING

    def first(self, *keys: str) -> Any:
        """Return the first of these settings that is there and not None; None = none is."""
        return next((value for key in keys if (value := self.get(key)) is not None), None)

    def __iter__(self) -> Iterator[str]:
        self.finalize()
        layers = (BY_NAME, self._changes, self._source.custom(), *self._added_values)
        return iter(dict.fromkeys(key for layer in layers for key in layer))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def __repr__(self) -> str:
        return f"<Settings: {self._named.label()}, {len(self._changes)} changed>"

    def get_by_parts(self, *parts: str) -> Any:
        """Return the setting whose name is made of *parts*, such as ``("task", "routes")``."""
        return self["_".join(part for part in parts if part)]

    def find_option(self, name: str, namespace: str = "") -> FoundOption:
        """Return the setting called *name*, or *name* behind *namespace*, or behind any group.

        Raises:
            KeyError: there is none.
        """
        return _find_option(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Return the value of what `find_option` finds."""
        found = _find_option(name, namespace)
        return self.get_by_parts(found.namespace or "", found.key)

    def value_set_for(self, key: str) -> bool:
        """Return whether *key* was set by anybody, so that it is not just a default."""
        return self._set_value(self._canonical(key)) is not _MISSING

    def without_defaults(self) -> dict[str, Any]:
        """Return only what somebody set."""
        return {key: self[key] for key in self if self.value_set_for(key)}

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Return settings and values, with everything secret masked when *censored*."""
        shown = {key: self[key] for key in self} if with_defaults else self.without_defaults()
        return {key: mask_secrets(value, key) for key, value in shown.items()} if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:  # noqa: FBT001, FBT002
        """Return `table` as lines of ``name: value``."""
        return "\n".join(f"{key}: {value!r}" for key, value in self.table(with_defaults, censored).items())

    def frozen(self) -> FrozenSettings:
        """Return what all settings are worth now, for a worker that must not see them change."""
        return FrozenSettings({key: self[key] for key in self})

    def copy(self) -> Settings:
        """Return settings that start as these and change on their own."""
        other = Settings(
            as_celery=self._as_celery,
            fallback=self._fallback,
            environ=self._environ,
            import_module=self._import_module,
        )
        with self._lock:
            other._changes = dict(self._changes)
            other._added = list(self._added)
            other._named = self._named
        return other

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn once for each old name in use; return whether there was one. Django's settings may keep theirs."""
        self.finalize()
        if self._named.source == "django.conf:settings":
            return False
        for old_name in sorted(self.deprecated_settings):
            warnings.warn(
                f"the setting {old_name} is called {BY_OLD_NAME[old_name].name!r} now; its old name will not be read "
                f"for ever. Let `umbel upgrade settings FILE` rename them all",
                CDeprecationWarning,
                stacklevel=2,
            )
        return bool(self.deprecated_settings)

    # -- writing: always the top layer

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the setting {name!r} was not assigned, so there is nothing to delete") from None

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        name = self._canonical(key)
        del self._changes[name]
        self._forget()
        self._notify(frozenset({name}))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set many at once: all of them, or none when one is misspelt."""
        given = dict(*args, **kwargs)
        for key in given:
            _refuse_misspelt(key, strict=not self._as_celery)
        values = {self._canonical(key): value for key, value in given.items()}
        with self._lock:
            self._changes.update(values)
            self._forget()
        self._notify(frozenset(values))

    def on_change(self, observer: Callable[[frozenset[str]], object]) -> None:
        """Call *observer* with the names of settings after they were set here."""
        self._observers.append(observer)

    # -- how a value is found

    def _get(self, key: str) -> Any:
        """Return what *key* is worth, or _MISSING when nobody knows it."""
        if key not in BY_NAME and key not in BY_OLD_NAME:
            self.finalize()  # it may have the prefix of the config object
        name = self._canonical(key)
        if name in self.__dict__:
            return self.__dict__[name]
        version = self._version
        value = self._set_value(name)
        if value is _MISSING:
            value = self._default(name)
        if value is None and name in _FOLLOWS:
            return self._get(_FOLLOWS[name])
        if value is not _MISSING and name not in _ENVIRONMENT:  # the environment may change at any time
            with self._lock:
                if self._state == "loaded" and self._version == version:
                    self.__dict__[name] = value
        return value

    def _set_value(self, name: str) -> Any:
        """Return what somebody set *name* to, or _MISSING."""
        if name in _ENVIRONMENT and (value := self._environ.get(_ENVIRONMENT[name])):
            return value
        if name in self._changes:
            return self._changes[name]
        self.finalize()
        if name in self._changes:  # set by who was called before loading
            return self._changes[name]
        value = self._source.find(name)
        if value is not _MISSING:
            return value
        return next((layer[name] for layer in self._added_values if name in layer), _MISSING)

    def _default(self, name: str) -> Any:
        setting = BY_NAME.get(name)
        if setting is None:
            return _MISSING
        default = setting.celery_default if self._as_celery else setting.default
        # A default that can be changed in place belongs to this app alone.
        return self._own_defaults.setdefault(name, default.copy()) if isinstance(default, dict) else default

    def _canonical(self, key: str) -> str:
        if key in BY_NAME:
            return key
        if key in BY_OLD_NAME:
            return BY_OLD_NAME[key].name
        return self._source.stripped(key) or key

    def _forget(self) -> None:
        with self._lock:
            self._version += 1
            for name in list(self.__dict__):
                if not name.startswith("_"):
                    self.__dict__.pop(name, None)

    def _notify(self, names: frozenset[str]) -> None:
        for observer in self._observers if names else ():
            observer(names)

    def _load(self) -> None:
        with self._lock:
            if self._state != "new":
                return  # loaded meanwhile; or the config module itself asks, and sees what is known so far
            self._state = "loading"
            try:
                if self._before_load is not None:
                    self._before_load()
                self._source = self._read_source()
                self._added_values = [_evaluated(defaults) for defaults in self._added]
            except AttributeError as exc:
                self._state = "new"
                # Inside __getattr__ it would look as if the setting did not exist.
                raise ModuleNotFoundError(f"the configuration cannot be read: {exc}") from exc
            except BaseException:
                self._state = "new"
                raise
            self._state = "loaded"
        if self._after_load is not None:
            self._after_load(self)

    def _read_source(self) -> _Source:
        named = self._named
        if named.source is None:
            named = _Named(self._environ.get("CELERY_CONFIG_MODULE"), named.namespace, silent=False)
        if named.source is None and self._fallback is not None:
            named = _Named(self._fallback, named.namespace, silent=True)
        try:
            found = symbol_by_name(named.source, import_module=self._import_module)
        except (ImportError, AttributeError):
            if not named.silent:
                raise
            if named.source == self._fallback and self._environ.get("C_WNOCONF"):
                warnings.warn(
                    f"no module {self._fallback!r} was found to read settings from", NotConfigured, stacklevel=2
                )
            found = None
        source = _Source({} if found is None else found, named.namespace)
        source.check(strict=not self._as_celery)
        return source


class FrozenSettings:
    """What all settings were worth at one moment; fast to read, impossible to change."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Take all settings by name."""
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        setting = BY_OLD_NAME.get(name)
        if setting is None:
            raise AttributeError(f"no setting is called {name!r}{did_you_mean(name, BY_NAME)}")
        return self.__dict__[setting.name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} cannot be set: settings are frozen once a worker has started")

    def __getitem__(self, key: str) -> Any:
        return self.__dict__[key]

    def __contains__(self, key: object) -> bool:
        return key in self.__dict__

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default* when nobody set it."""
        return self.__dict__.get(key, default)


# -- The config object -------------------------------------------------------------------------------------------------


class _Named:
    """What was asked for as configuration, before it is read."""

    def __init__(self, source: Any, namespace: str | None, *, silent: bool) -> None:
        self.source = source
        self.namespace = namespace
        self.silent = silent

    def label(self) -> str:
        if self.source is None:
            return "no config object"
        return self.source if isinstance(self.source, str) else f"a {type(self.source).__name__}"


class _Source:
    """A config object that was read: a mapping, a module, or anything with attributes."""

    def __init__(self, found: Any, namespace: str | None) -> None:
        self._found = found
        self._is_mapping = isinstance(found, Mapping)
        self._prefix = namespace.rstrip("_") + "_" if namespace else ""
        self._upper = self._prefix.isupper()
        self.old_names: frozenset[str] = frozenset()

    def find(self, name: str) -> Any:
        """Return what *name* is set to here, or _MISSING; its name with the prefix comes first, its old name last."""
        setting = BY_NAME.get(name)
        for key in (self._prefixed(name), name, setting and setting.old_name, name == "timezone" and "TIME_ZONE"):
            if key and (value := self._value(key)) is not _MISSING:
                return value
        return _MISSING

    def stripped(self, key: str) -> str | None:
        """Return the setting that *key* names by our prefix, or None."""
        if not self._prefix or not key.startswith(self._prefix):
            return None
        name = key[len(self._prefix) :]
        return name.lower() if self._upper else name

    def custom(self) -> list[str]:
        """Return the names of settings that are not ours."""
        if self._prefix:
            names = [self.stripped(key) for key in self._keys() if key not in BY_OLD_NAME]
        else:
            names = [key for key in self._keys() if key not in BY_OLD_NAME] if self._is_mapping else []
        return [name for name in names if name and name not in BY_NAME]

    def check(self, *, strict: bool) -> None:
        """Refuse what is misspelt (unless *strict*: warn of it), or spelt in both the old and the new way.

        Raises:
            ImproperlyConfigured: says which names, and what to call them.
        """
        keys = self._keys()
        for key in keys:
            if self._prefix:
                name = self.stripped(key)
                if name and key not in BY_OLD_NAME:
                    _refuse_misspelt(name, prefix=self._prefix, own=False, strict=strict)
            elif self._is_mapping or self._is_plain(key):
                _refuse_misspelt(key, own=self._is_mapping, strict=strict)
        if not self._prefix:
            _warn_of_missing_namespace(keys)
            _refuse_mixture(keys)
        prefixed = {self._prefixed(name) for name in BY_NAME}
        self.old_names = frozenset(key for key in keys if key in BY_OLD_NAME and key not in prefixed)
        self.old_names -= _NEITHER_OLD_NOR_NEW

    def _keys(self) -> list[str]:
        keys = self._found if self._is_mapping else dir(self._found)
        return [key for key in keys if isinstance(key, str) and not key.startswith("_")]

    def _is_plain(self, key: str) -> bool:
        """Tell whether *key* of a module could be meant as a setting: no function, class or module."""
        if key.isupper() or "_" not in key:
            return False
        value = getattr(self._found, key, None)
        return not callable(value) and not isinstance(value, ModuleType)

    def _prefixed(self, name: str) -> str:
        return self._prefix + (name.upper() if self._upper else name) if self._prefix else ""

    def _value(self, key: str) -> Any:
        if self._is_mapping:
            return self._found.get(key, _MISSING)
        return getattr(self._found, key, _MISSING)


def _evaluated(defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    values = defaults() if callable(defaults) else defaults
    return {BY_OLD_NAME[key].name if key in BY_OLD_NAME else key: value for key, value in values.items()}


def _refuse_misspelt(key: str, *, strict: bool, prefix: str = "", own: bool = True) -> None:
    """Raise (or warn, unless *strict*) when *key* clearly means one of our settings; others are the user's own.

    *prefix* is what stood before it. With *own* it was given to us and to nobody else, so less is needed to be clear.
    """
    if key in BY_NAME or key in BY_OLD_NAME or key.isupper():
        return
    meant = close_match(key.lower(), BY_NAME, cutoff=0.87)
    if meant is None and own:
        behind = [name for name in BY_NAME if name.partition("_")[2] == key]
        meant = behind[0] if len(behind) == 1 else None
        if meant is None and key.startswith(_OUR_GROUPS):
            meant = close_match(key, BY_NAME) or ""
    if meant is None:
        return
    written, better = ((prefix + name).upper() if prefix.isupper() else prefix + name for name in (key, meant))
    text = (
        f"no setting is called {written!r}{f'; did you mean {better!r}?' if meant else '.'} "
        f"If it is a setting of your own, give it a name that does not resemble ours."
    )
    if strict:
        raise ImproperlyConfigured(text)
    warnings.warn(text, CeleryWarning, stacklevel=3)


def _warn_of_missing_namespace(keys: Iterable[str]) -> None:
    lost = [key for key in keys if key not in BY_OLD_NAME and key.startswith("CELERY_") and key[7:].lower() in BY_NAME]
    if lost:
        warnings.warn(
            f"these settings are not read, because the configuration was given without namespace='CELERY': "
            f"{', '.join(sorted(lost))}",
            CeleryWarning,
            stacklevel=2,
        )


def _refuse_mixture(keys: Iterable[str]) -> None:
    """Raise when old and new names stand together; a setting under both of its names is fine."""
    given = set(keys)
    new = {key for key in given if key in BY_NAME}
    old = {key for key in given if key in BY_OLD_NAME} - _NEITHER_OLD_NOR_NEW
    if not new or not old:
        return
    if len(new) >= len(old):
        rename = {key: BY_OLD_NAME[key].name for key in old if BY_OLD_NAME[key].name not in new}
        style = "new"
    else:
        rename = {key: better for key in new if (better := BY_NAME[key].old_name) and better not in old}
        style = "old"
    if rename:
        lines = "".join(f"\n  {key:36} -> {better}" for key, better in sorted(rename.items()))
        raise ImproperlyConfigured(
            f"old and new names of settings cannot be mixed. Most are {style} here, so please rename:{lines}"
        )


def _find_option(name: str, namespace: str) -> FoundOption:
    if name in BY_NAME:
        return FoundOption(None, name, BY_NAME[name])
    if (full := f"{namespace}_{name}") in BY_NAME:
        return FoundOption(namespace, name, BY_NAME[full])
    for full in sorted(BY_NAME):
        group, _, rest = full.partition("_")
        if rest == name:
            return FoundOption(group, name, BY_NAME[full])
    raise KeyError(name)


# -- The command line --------------------------------------------------------------------------------------------------

_CAST: Final = re.compile(r"\((\w+)\)(.*)", re.DOTALL)
_TRUE: Final = frozenset({"true", "yes", "1", "on"})
_FALSE: Final = frozenset({"false", "no", "0", "off"})


def strtobool(text: str) -> bool:
    """Return the truth that *text* states: true, yes, 1, on, or false, no, 0, off, in any case.

    Raises:
        TypeError: it states neither.
    """
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise TypeError(f"{text!r} is no boolean; say true, yes, 1, on or false, no, 0, off")
    return word in _TRUE


def parse_assignments(arguments: Iterable[str], *, namespace: str) -> dict[str, Any]:
    """Return the settings that ``key=value`` words of a command line mean.

    A key may be ``worker.concurrency``, ``worker_concurrency``, or ``.concurrency`` and ``concurrency`` for the
    command's own *namespace*. The value is read as the setting's kind, or as ``(kind)value`` says.

    Raises:
        ImproperlyConfigured: no such setting, or no ``=``.
        TypeError: no boolean.
        ValueError: no value of that kind.
    """
    settings: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ImproperlyConfigured(f"expected 'key=value', not {argument!r}")
        setting = _setting_for(key, namespace)
        cast = _CAST.fullmatch(text)
        kind: str = setting.kind
        if cast and not cast[1].isdigit():
            kind, text = cast.groups()
            if kind not in _READERS:
                raise ValueError(f"unknown kind {kind!r} in {argument!r}; known are {', '.join(_READERS)}")
        nothing = setting.default is None and text.lower() in {"none", "null"}
        try:
            settings[setting.name] = None if nothing else _READERS[kind](text)
        except msgspec.DecodeError as exc:
            raise ValueError(f"{argument!r}: {exc}") from None
        except ValueError as exc:
            raise ValueError(f"{argument!r} is no {kind}: {exc}") from None
    return settings


def _setting_for(key: str, namespace: str) -> Setting:
    own = namespace if namespace != "celery" else ""
    if key.startswith("."):
        wanted = [f"{own}_{key[1:]}" if own else key[1:]]
    else:
        name = key.removeprefix("celery.").replace(".", "_")
        wanted = [name, f"{own}_{name}"]
    for name in wanted:
        if name in BY_NAME:
            return BY_NAME[name]
        if name in BY_OLD_NAME:
            return BY_OLD_NAME[name]
    raise ImproperlyConfigured(f"no setting is called {key!r}{did_you_mean(wanted[0], BY_NAME)}")


def _read_json(text: str) -> Any:
    return msgspec.json.decode(text)


def _read_any(text: str) -> Any:
    try:
        return _read_json(text)
    except msgspec.DecodeError:
        return text


def _read_list(text: str) -> list[Any]:
    if text.startswith("["):
        return msgspec.json.decode(text, type=list[Any])
    return [item.strip() for item in text.split(",") if item.strip()]


def _read_dict(text: str) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "any": _read_any,
    "bool": strtobool,
    "bytes": str.encode,
    "dict": _read_dict,
    "float": float,
    "int": int,
    "json": _read_json,
    "list": _read_list,
    "string": str,
    "tuple": lambda text: tuple(_read_list(text)),
}
