"""A sink's constructor -> the options that an operator can give it.

An option is an argument whose type TOML can say. One that it cannot say, as a callable or a client, is left
out where it has a default, and named in the error where it is required.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from aiokpl_metricsd.configuring.conversion import Slot
from aiokpl_metricsd.configuring.description import Annotation

_SCALARS = frozenset(
    {bool, date, datetime, Decimal, dict, float, frozenset, int, list, set, str, time, timedelta, tuple}
)
_CONTAINERS = frozenset({Collection, Mapping, Sequence, AbstractSet, dict, frozenset, list, set, tuple})


class _Unwritable:
    """Stands for a type that TOML cannot say."""


class Signature(NamedTuple):
    """What a factory takes.

    Attributes:
        slots: the options by name.
        unwritable: the required arguments that are no options.
        is_open: True when the factory takes any other option as well (`**options`).
    """

    slots: Mapping[str, Slot]
    unwritable: tuple[str, ...]
    is_open: bool


def read_signature(factory: Callable[..., object]) -> Signature:
    """Return what the factory takes by keyword."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        # Written in C without a signature: whatever is given is handed over.
        return Signature({}, (), is_open=True)
    slots: dict[str, Slot] = {}
    unwritable: list[str] = []
    namespace = _find_namespace(factory)
    for parameter in parameters:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        is_required = parameter.default is parameter.empty
        annotation = _narrow(_resolve(parameter.annotation, namespace))
        if annotation is not _Unwritable and parameter.kind is not parameter.POSITIONAL_ONLY:
            slots[parameter.name] = Slot(annotation, is_required)
        elif is_required:
            unwritable.append(parameter.name)
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return Signature(slots, tuple(unwritable), is_open)


def _find_namespace(factory: Callable[..., object]) -> dict[str, Any]:
    """Return the names that the factory's annotations may use."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    target: Any = factory
    if isinstance(factory, type):
        target = getattr(factory, "__init__")  # noqa: B009 - a checker takes it for an instance's
    elif not hasattr(factory, "__globals__"):
        target = type(factory).__call__
    return getattr(inspect.unwrap(target), "__globals__", {})


def _resolve(annotation: Annotation, namespace: dict[str, Any]) -> Annotation:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(holder, namespace, include_extras=True)["it"]
    except (AttributeError, NameError, SyntaxError, TypeError):
        # A name that only type checkers import.
        return Any


def _narrow(annotation: Annotation) -> Annotation:
    """Return the part of a type that TOML can say, or `_Unwritable`."""
    if annotation in {Any, object} or isinstance(annotation, TypeVar):
        return Any
    narrowed = (
        _narrow_union(get_args(annotation)) if get_origin(annotation) in {Union, UnionType} else annotation
    )
    if not _is_writable(narrowed):
        return _Unwritable
    try:
        msgspec.convert(None, narrowed)
    except msgspec.ValidationError:
        pass
    except TypeError:
        # A union that cannot be told apart: the sink gets what stands in the table.
        return Any
    return narrowed


def _narrow_union(members: tuple[Annotation, ...]) -> Annotation:
    writable = [member for member in members if member is NoneType or _is_writable(member)]
    if str in writable:
        writable = [member for member in writable if not _is_path(member)]
    if all(member is NoneType for member in writable):
        return _Unwritable
    return Union[tuple(writable)]  # noqa: UP007 - the members are known at run time only


def _is_writable(annotation: Annotation) -> bool:
    if annotation in {Any, object, Ellipsis} or isinstance(annotation, TypeVar):
        return True
    origin: Any = get_origin(annotation)
    parameters = get_args(annotation)
    if origin is Annotated:
        return _is_writable(parameters[0])
    if origin in {Union, UnionType}:
        return all(member is NoneType or _is_writable(member) for member in parameters)
    if origin is not None:
        return origin is Literal or (origin in _CONTAINERS and all(map(_is_writable, parameters)))
    # A NewType is written as what it is made of.
    annotation = getattr(annotation, "__supertype__", annotation)
    return annotation in _SCALARS or _is_path(annotation) or _is_record(annotation)


def _is_path(annotation: Annotation) -> bool:
    # Asked by shape: pathlib costs import time, and only a sink that has imported it can ask for a path.
    return (
        isinstance(annotation, type)
        and hasattr(annotation, "__fspath__")
        and not inspect.isabstract(annotation)
    )


def _is_record(annotation: Annotation) -> bool:
    """Tell whether msgspec itself builds the type from a string or a table."""
    if not isinstance(annotation, type):
        return False
    is_declared = any(hasattr(annotation, name) for name in ("__dataclass_fields__", "__total__"))
    return is_declared or issubclass(annotation, Enum | msgspec.Struct)


__all__ = ["Signature", "read_signature"]
