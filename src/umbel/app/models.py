"""Let tasks take and return pydantic models, which travel as plain data."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from umbel.exceptions import MissingExtra

__all__ = ["Models", "with_models"]


class Models:
    """Which arguments of a function are models, and whether it returns one."""

    def __init__(
        self, fun: Callable[..., Any], *, strict: bool | None, context: Mapping[str, Any], dump: Mapping[str, Any]
    ) -> None:
        """Read the annotations of *fun*; *strict* and *context* are for validating, *dump* for dumping.

        Raises:
            MissingExtra: pydantic is not installed.
        """
        base = _base_model()
        hints = typing.get_type_hints(fun)
        self._signature = inspect.signature(fun)
        self._returns = _model_in(hints.pop("return", None), base)
        self._arguments = {name: model for name, hint in hints.items() if (model := _model_in(hint, base))}
        self._strict = strict
        self._context = dict(context)
        self._dump = {"mode": "json", **dump}
        self._base = base

    def load(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments with models in place of the data that came.

        Raises:
            pydantic.ValidationError: the data is not what a model wants.
        """
        bound = self._signature.bind(*args, **kwargs)
        for name, model in self._arguments.items():
            value = bound.arguments.get(name)
            if value is not None:
                bound.arguments[name] = model.model_validate(value, strict=self._strict, context=self._context)
        return bound.args, bound.kwargs

    def dumped(self, value: Any) -> Any:
        """Return what the function returned, as data if it is the model that its annotation names."""
        if self._returns is not None and isinstance(value, self._returns):
            return value.model_dump(**self._dump)
        return value

    def dump(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call with data in place of models, where that loses nothing."""
        return [self._travelling(value) for value in args], {
            name: self._travelling(value) for name, value in kwargs.items()
        }

    def _travelling(self, value: Any) -> Any:
        if not isinstance(value, self._base):
            return value
        data = value.model_dump(**self._dump)
        try:
            same = type(value).model_validate(data, strict=self._strict, context=self._context) == value
        except ValueError:  # pydantic's ValidationError is one: the dump leaves out what validation wants
            same = False
        return data if same else value


def with_models(fun: Callable[..., Any], models: Models) -> Callable[..., Any]:
    """Return *fun* taking data for models, and returning data for a model."""
    if inspect.iscoroutinefunction(fun):

        @functools.wraps(fun)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = models.load(args, kwargs)  # type: ignore[assignment]  # still both
            return models.dumped(await fun(*args, **kwargs))

        return arun

    @functools.wraps(fun)
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = models.load(args, kwargs)  # type: ignore[assignment]  # still both
        return models.dumped(fun(*args, **kwargs))

    return run


def _model_in(hint: Any, base: type) -> Any:
    """Return the model that *hint* names, alone or beside None."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        hint = options[0] if len(options) == 1 else None
    return hint if isinstance(hint, type) and issubclass(hint, base) else None


def _base_model() -> Any:
    try:
        import pydantic
    except ImportError:
        raise MissingExtra("a task with pydantic=True", "pydantic") from None
    return pydantic.BaseModel
