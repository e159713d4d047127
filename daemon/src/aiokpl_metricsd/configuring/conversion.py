"""A table of the configuration -> typed values, key by key, so that an error names the key that is wrong.

A value that is written in the file must have its key's type already; one that came wholly from a variable or
a file is text, and is converted.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, cast, get_args, get_origin

import msgspec
from msgspec import structs

from aiokpl_metricsd.configuring.description import Annotation, describe_expected, describe_found
from aiokpl_metricsd.configuring.interpolation import Interpolated
from aiokpl_metricsd.configuring.place import Place, quote_key, suggest


class Slot(NamedTuple):
    """What one key of a table takes."""

    annotation: Annotation
    is_required: bool = False


def list_slots(struct: type[msgspec.Struct]) -> dict[str, Slot]:
    """Return the fields of a struct as slots."""
    return {field.name: Slot(field.type, field.required) for field in structs.fields(struct)}


def convert_table(
    table: Mapping[str, object],
    slots: Mapping[str, Slot],
    place: Place,
    *,
    is_open: bool = False,
    reserved: Collection[str] = (),
) -> dict[str, Any]:
    """Return the table's values, each converted to its slot's type; keys that are not given are left out.

    Args:
        table: interpolated, files read.
        slots: the keys that the table takes.
        place: where the table stands.
        is_open: keys without a slot pass as they are.
        reserved: further keys that the operator may use in this table, for the errors' sake.

    Raises:
        ConfigurationError: a key is unknown or missing, or a value has the wrong type.
    """
    result: dict[str, Any] = {}
    for key, value in table.items():
        slot = slots.get(key)
        if slot is not None:
            result[key] = _convert_key(value, slot.annotation, key, place)
        elif is_open:
            result[key] = _settle(value, Any)
        else:
            raise _unknown(key, [*slots, *reserved], place)
    for key, slot in slots.items():
        if slot.is_required and key not in result:
            expected = describe_expected(slot.annotation)
            raise place.error(f"missing; expected {expected}", quote_key(key))
    return result


def _unknown(key: str, known: list[str], place: Place) -> Exception:
    if not known:
        return place.error("unknown key; expected none", quote_key(key))
    expected = ", ".join(sorted(known))
    return place.error(f"unknown key; expected one of: {expected}{suggest(key, known)}", quote_key(key))


def _convert_key(value: object, annotation: Annotation, key: str, place: Place) -> Any:  # noqa: ANN401 - any key's type
    try:
        return convert(value, annotation)
    except msgspec.ValidationError as error:
        # msgspec's own text may hold the value; only where it points to is taken from it.
        index = re.search(r"\$((?:\[\d+\])+)$", str(error).rstrip("`"))
        steps = index[1] if index else ""
    found: Any = value
    for step in re.findall(r"\d+", steps):
        found = found[int(step)]
    expected = describe_expected(annotation)
    raise place.error(f"expected {expected}, found {describe_found(found, key)}", quote_key(key) + steps)


def convert(value: object, annotation: Annotation) -> Any:  # noqa: ANN401 - any key's type
    """Return the value as the annotation's type: strictly, but for what came wholly from elsewhere.

    Raises:
        msgspec.ValidationError: it does not convert. The message may hold the value.
    """
    if isinstance(value, Interpolated) and value.is_whole:
        return msgspec.convert(str(value), annotation, strict=False, dec_hook=_decode_path)
    return msgspec.convert(_settle(value, annotation), annotation, dec_hook=_decode_path)


def _settle(value: object, annotation: Annotation) -> object:
    """Return the value with nothing marked in it; what is marked inside an array or a table is converted."""
    if isinstance(value, Interpolated):
        text = str(value)
        if not value.is_whole:
            return text
        try:
            settled = msgspec.convert(text, annotation, strict=False, dec_hook=_decode_path)
        except (msgspec.ValidationError, TypeError):
            return text
        return settled if isinstance(settled, bool | int | float) else text
    if isinstance(value, list):
        item_type = _parameter(annotation, list)
        return [_settle(item, item_type) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        item_type = _parameter(annotation, dict)
        return {key: _settle(item, item_type) for key, item in cast("dict[str, object]", value).items()}
    return value


def _parameter(annotation: Annotation, container: type) -> Annotation:
    """Return T of `list[T]`, `Sequence[T] | None`, `dict[str, T]` and their like, else `Any`."""
    for member in (annotation, *get_args(annotation)):
        origin, parameters = get_origin(member), get_args(member)
        if isinstance(origin, type) and parameters:
            is_table = hasattr(origin, "keys")
            if is_table is (container is dict):
                return parameters[-1] if is_table else parameters[0]
    return Any


def _decode_path(annotation: type, value: object) -> object:
    if isinstance(value, str) and hasattr(annotation, "__fspath__"):
        return annotation(value)
    raise TypeError


__all__ = ["Slot", "convert", "convert_table", "list_slots"]
