"""Mark the tasks of a work-flow with values that travel as headers, so that they can be found by them later."""

# ruff: noqa: B027 - a visitor overrides the hooks it wants

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

__all__ = ["StampingVisitor", "stamp"]

_Headers: TypeAlias = Mapping[str, Any]  # values by name; `stamped_headers` names those that are stamps, else all are

_SEVERAL: Final = (list, tuple, set, frozenset)


class StampingVisitor(ABC):
    """Choose the stamps of each signature that `Signature.stamp` walks over.

    Each hook gets the headers of what is around, and returns those it adds (or None): all of them are stamps unless
    ``stamped_headers`` among them names which. What a start hook returns holds for all that is inside.
    """

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Return the headers of one task."""

    def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """Return headers for all members of a group."""

    def on_group_end(self, sig: Any, **headers: Any) -> None:
        """Be told that a group is done."""

    def on_chain_start(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """Return headers for all steps of a chain."""

    def on_chain_end(self, sig: Any, **headers: Any) -> None:
        """Be told that a chain is done."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """Return headers for a chord's header and body; left as it is, those of a group."""
        return self.on_group_start(sig["kwargs"]["header"], **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """Be told that a chord's header is done."""

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """Return headers for a chord's body."""

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any] | None:
        """Return headers for a callback."""

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any] | None:
        """Return headers for an errback."""


def stamp(
    signature: Any,
    visitor: StampingVisitor | None,
    headers: _Headers,
    *,
    append: bool,
    as_signature: Callable[[Any], Any],
    as_group: Callable[[Any], Any],
) -> None:
    """Stamp *signature* and all that is in it or linked to it, in place (API-284 to API-291).

    Of values for one name, those of *headers* win over the visitor's, and these over what is there; lists are
    concatenated, and with *append* all values become a list. *as_signature* and *as_group* make what hooks are given of
    dict forms and of members.
    """
    _Walk(visitor, as_signature, as_group, append=append).stamp(signature, headers)


class _Walk:
    """One walk of a visitor over a work-flow."""

    def __init__(
        self,
        visitor: StampingVisitor | None,
        as_signature: Callable[[Any], Any],
        as_group: Callable[[Any], Any],
        *,
        append: bool,
    ) -> None:
        self._visitor = visitor
        self._as_signature = as_signature
        self._as_group = as_group
        self._append = append

    def stamp(self, signature: Any, headers: _Headers) -> None:
        kwargs = signature["kwargs"]
        self._stamp_links(signature, headers)
        match signature["subtask_type"]:
            case "chain":
                inside = self._around("on_chain_start", signature, headers)
                self._stamp_all(kwargs, "tasks", inside)
                self._ask("on_chain_end", signature, inside)
            case "group":
                inside = self._around("on_group_start", signature, headers)
                self._stamp_all(kwargs, "tasks", inside)
                self._ask("on_group_end", signature, inside)
            case "chord":
                kwargs["header"] = self._as_group(kwargs["header"])
                inside = self._around("on_chord_header_start", signature, headers)
                self._stamp_all(kwargs["header"]["kwargs"], "tasks", inside)
                self._ask("on_chord_header_end", signature, inside)
                if kwargs.get("body") is not None:
                    kwargs["body"] = self._as_signature(kwargs["body"])
                    self.stamp(kwargs["body"], self._around("on_chord_body", signature, inside))
            case _:
                given = _read(self._ask("on_signature", signature, headers))
                options = signature["options"]
                options.update(self._joined(_read(headers), given, _read_options(options)))

    def _stamp_links(self, signature: Any, headers: _Headers) -> None:
        options = signature["options"]
        for name, hook in (("link", "on_callback"), ("link_error", "on_errback")):
            links = options.get(name)
            if links:
                links = [links] if isinstance(links, Mapping) else links
                options[name] = [self._as_signature(link) for link in links]
                for link in options[name]:
                    self.stamp(link, self._around(hook, link, headers))

    def _stamp_all(self, kwargs: dict[str, Any], key: str, headers: _Headers) -> None:
        tasks = kwargs[key]
        if isinstance(tasks, (list, tuple)):
            kwargs[key] = type(tasks)(self._as_signature(task) for task in tasks)
            for task in kwargs[key]:
                self.stamp(task, headers)
        else:  # a generator's members are stamped when they come
            kwargs[key] = self._as_group(self._stamped(tasks, headers))["kwargs"]["tasks"]

    def _stamped(self, tasks: Iterable[Any], headers: _Headers) -> Iterable[Any]:
        for task in tasks:
            self.stamp(task, headers)
            yield task

    def _ask(self, hook: str, signature: Any, headers: _Headers) -> _Headers:
        if self._visitor is None:
            return {}
        return getattr(self._visitor, hook)(signature, **headers) or {}

    def _around(self, hook: str, signature: Any, headers: _Headers) -> _Headers:
        """Return *headers* with what *hook* adds to them."""
        given = self._ask(hook, signature, headers)
        return self._joined(_read(headers), _read(given)) if given else headers

    def _joined(self, *sources: tuple[_Headers, Sequence[str]]) -> dict[str, Any]:
        """Return the values of all *sources* in one, the first ones winning, with `stamped_headers`."""
        joined: dict[str, Any] = {}
        stamps: dict[str, None] = {}
        for values, names in sources:
            for name, value in values.items():
                joined[name] = self._both(joined[name], value) if name in joined else value
            stamps |= dict.fromkeys(names)
        return {**joined, "stamped_headers": list(stamps)}

    def _both(self, first: Any, second: Any) -> Any:
        if self._append or isinstance(first, _SEVERAL) or isinstance(second, _SEVERAL):
            return [*_listed(first), *_listed(second)]
        return first


def _read(headers: _Headers) -> tuple[_Headers, Sequence[str]]:
    """Return values and names of stamps: those that `stamped_headers` says, else all."""
    values = {name: value for name, value in headers.items() if name != "stamped_headers"}
    said = headers.get("stamped_headers")
    return values, list(values) if said is None else list(said)


def _read_options(options: _Headers) -> tuple[_Headers, Sequence[str]]:
    """Return the stamps that a signature has already; all else in its options is none."""
    names = options.get("stamped_headers") or ()
    return {name: options[name] for name in names if name in options}, names


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, _SEVERAL) else [value]
