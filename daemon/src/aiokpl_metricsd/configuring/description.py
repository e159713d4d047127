"""Types and values of the configuration -> the words of an operator who writes TOML. It shows no secret."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, cast

from msgspec import inspect

from aiokpl_metricsd.configuring.interpolation import Interpolated, is_secret_key
from aiokpl_metricsd.configuring.place import quote

# Whatever a key or a parameter may be annotated with: a class, a union, an `Annotated`.
Annotation: TypeAlias = Any

# A longer string is cut: the line is to be read.
_MAX_SHOWN_CHARS = 40


def describe_found(value: object, key: str = "") -> str:
    """Return what an error shows of a value: never one that may be a secret."""
    if isinstance(value, Interpolated):
        return value.source
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "a number" if is_secret_key(key) else str(value)
    if isinstance(value, str):
        return _describe_string(value, key)
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, dict) else "a date or time"


def _describe_string(value: str, key: str) -> str:
    # An address may hold a user and a password.
    if is_secret_key(key) or "@" in value:
        return "a string"
    return quote(value if len(value) <= _MAX_SHOWN_CHARS else value[:_MAX_SHOWN_CHARS] + "…")


def describe_expected(annotation: Annotation) -> str:
    """Return what a key takes."""
    return _describe(inspect.type_info(annotation))


def _describe(info: inspect.Type) -> str:
    describe = _WORDS.get(type(info))
    if describe is not None:
        return describe(info)
    word = type(info).__name__.removesuffix("Type").lower()
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _describe_annotated(info: inspect.Metadata) -> str:
    schema = cast("dict[str, object]", info.extra_json_schema or {})
    return str(schema.get("description") or _describe(info.type))


def _describe_union(info: inspect.UnionType) -> str:
    # TOML has no null: a key is left out.
    return " or ".join(_describe(member) for member in info.types if not isinstance(member, inspect.NoneType))


def _describe_choice(values: Iterable[object]) -> str:
    words = [quote(value) if isinstance(value, str) else str(value) for value in values]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _describe_enum(info: inspect.EnumType) -> str:
    return _describe_choice(member.value for member in info.cls)


def _describe_number(info: inspect.IntType | inspect.FloatType) -> str:
    noun = "a whole number" if isinstance(info, inspect.IntType) else "a number"
    if info.ge is not None and info.le is not None:
        return f"{noun} from {info.ge:.15g} to {info.le:.15g}"
    bounds = {"greater than": info.gt, "of at least": info.ge, "less than": info.lt, "of at most": info.le}
    words = " and ".join(f"{word} {bound:.15g}" for word, bound in bounds.items() if bound is not None)
    return f"{noun} {words}".rstrip()


def _describe_text(info: inspect.StrType) -> str:
    if info.max_length is not None:
        return f"a string of {info.min_length or 0} to {info.max_length} characters"
    return "a string that is not empty" if info.min_length else "a string"


def _describe_array(info: inspect.ListType | inspect.VarTupleType | inspect.SetType) -> str:
    is_any = isinstance(info.item_type, inspect.AnyType)
    return "an array" if is_any else f"an array, each item {_describe(info.item_type)}"


def _describe_table(info: inspect.DictType) -> str:
    is_any = isinstance(info.value_type, inspect.AnyType)
    return "a table" if is_any else f"a table, each value {_describe(info.value_type)}"


def _describe_class(info: inspect.CustomType) -> str:
    return "a path" if info.cls.__name__.endswith("Path") else f"a {info.cls.__name__}"


_WORDS: Final[dict[type, Callable[[Any], str]]] = {
    inspect.AnyType: lambda _: "a value",
    inspect.BoolType: lambda _: "true or false",
    inspect.CustomType: _describe_class,
    inspect.DataclassType: lambda _: "a table",
    inspect.DictType: _describe_table,
    inspect.EnumType: _describe_enum,
    inspect.FloatType: _describe_number,
    inspect.FrozenSetType: _describe_array,
    inspect.IntType: _describe_number,
    inspect.ListType: _describe_array,
    inspect.LiteralType: lambda info: _describe_choice(info.values),
    inspect.Metadata: _describe_annotated,
    inspect.SetType: _describe_array,
    inspect.StrType: _describe_text,
    inspect.StructType: lambda _: "a table",
    inspect.TupleType: lambda info: f"an array of {len(info.item_types)} items",
    inspect.TypedDictType: lambda _: "a table",
    inspect.UnionType: _describe_union,
    inspect.VarTupleType: _describe_array,
}

__all__ = ["Annotation", "describe_expected", "describe_found"]
