"""A sink's type and table -> the sink. Nothing is imported until it is named.

A type is a name out of `BUILTIN` or an import string, `package.module:ClassOrFactory`; both go through the
same door. A sink's options are the arguments of its constructor, by the same names and types.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from aiokpl_metrics_protocol import MetricsLevel
from aiokpl_metricsd.configuring.conversion import convert_table
from aiokpl_metricsd.configuring.interpolation import Interpolated, inline_files
from aiokpl_metricsd.configuring.place import Place, quote, suggest
from aiokpl_metricsd.configuring.secrecy import redact
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.contract import MetricsSink

BUILTIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cloudwatch": "aiokpl_metricsd.sinks.cloudwatch:CloudWatchSink",
        "console": "aiokpl_metricsd.sinks.console:ConsoleSink",
        "datadog": "aiokpl_metricsd.sinks.datadog:DatadogSink",
        "jsonl": "aiokpl_metricsd.sinks.jsonl:JsonlSink",
        "memory": "aiokpl_metricsd.sinks.memory:InMemorySink",
        "null": "aiokpl_metricsd.sinks.null:NullSink",
        "prometheus": "aiokpl_metricsd.sinks.prometheus:PrometheusSink",
        "opentelemetry": "aiokpl_metricsd.sinks.otlp:OtlpSink",
    },
)

# The built-in sinks that need packages of their own, and the extra that brings them.
EXTRAS: Final[Mapping[str, str]] = MappingProxyType(
    {"cloudwatch": "cloudwatch", "datadog": "datadog", "opentelemetry": "otel", "prometheus": "prometheus"},
)

# The extra that brings what HTTP needs; the sink that is scraped needs nothing else.
HTTP_EXTRA: Final = "prometheus"

DEFAULT_TIMEOUT_S = 30.0

Factory = Callable[..., object]


class SinkOptions(Struct, frozen=True, kw_only=True):
    """One `[sinks.NAME]` table.

    Attributes:
        name: the table's name.
        type: as the operator wrote it.
        level: `SUMMARY` merges the dimensions shard and error_code away.
        include: globs on metric names; empty lets every name in.
        exclude: globs on metric names; what matches one is left out.
        drop_dimensions: keys to be merged away.
        interval_s: seconds; a multiple of the daemon's own.
        timeout_s: seconds that one export may take.
        max_age_s: how old a window may become, from its end; None leaves it to the sink.
        at_most_once: nothing is sent a second time where the first may have been taken.
        spread_s: seconds over which a fleet's exports are spread; None leaves it to the sink.
        factory: builds the sink.
        options: the factory's arguments.
        place: where the table stands, for errors.
        secrets: texts out of `options` and the environment that no message about this sink may show.
        hidden: those of them that no line of the log may show.
        warnings: what the operator should look after, one line each.
    """

    name: str
    type: str
    factory: Factory
    interval_s: int
    level: MetricsLevel = MetricsLevel.DETAILED
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    drop_dimensions: tuple[str, ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_age_s: float | None = None
    at_most_once: bool = False
    spread_s: float | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    place: Place = Place()
    secrets: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return name and type: the options may hold secrets."""
        return f"SinkOptions(name={self.name!r}, type={self.type!r})"


def load_factory(name: str, place: Place = Place()) -> Factory:  # noqa: B008 - immutable
    """Return what builds a sink of the given type, importing its module.

    Args:
        name: a key of `BUILTIN` or an import string.
        place: where the sink's table stands.

    Raises:
        ConfigurationError: there is no such type, module or attribute, the module fails to import, or what it
            has there cannot be called.
    """
    shown = name.source if isinstance(name, Interpolated) else quote(name)
    target = BUILTIN.get(name, str(name))
    module_name, separator, path = target.partition(":")
    if not separator:
        near = suggest(name, list(BUILTIN))
        known = ", ".join(BUILTIN)
        raise place.error(
            f'expected one of {known}, or "package.module:ClassOrFactory", found {shown}{near}', "type"
        )
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise place.error(f'expected "package.module:ClassOrFactory", found {shown}', "type")
    factory = _import_module(module_name, name, shown, place)
    walked = module_name
    for attribute in path.split("."):
        if not hasattr(factory, attribute):
            near = suggest(attribute, dir(factory))
            raise place.error(f"{shown}: {walked} has no attribute {attribute}{near}", "type")
        factory = getattr(factory, attribute)
        walked = f"{walked}.{attribute}"
    if not callable(factory):
        raise place.error(f"{shown}: {walked} cannot be called; expected a class or a function", "type")
    return factory


def _import_module(module_name: str, name: str, shown: str, place: Place) -> object:
    from importlib import import_module

    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{module_name}.".startswith(f"{missing}."):
            raise place.error(f"{shown}: there is no module {missing}", "type") from None
        if name in EXTRAS:
            raise place.error(_name_extra(name, missing), "type") from None
        raise _import_failed(error, module_name, shown, place) from error
    except Exception as error:  # a module may raise anything while it is imported
        raise _import_failed(error, module_name, shown, place) from error


def _name_extra(name: str, package: str) -> str:
    return f"{quote(name)} needs the package {package}; install aiokpl-metricsd[{EXTRAS[name]}]"


def _import_failed(error: Exception, module_name: str, shown: str, place: Place) -> Exception:
    return place.error(f"{shown}: importing {module_name} failed: {type(error).__name__}: {error}", "type")


def build_options(
    factory: Factory,
    table: Mapping[str, object],
    place: Place = Place(),  # noqa: B008 - immutable
    *,
    reserved: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, object]]:
    """Return the factory's arguments out of a sink's table, and the table that they were converted from.

    In that one, files are read, and what came from elsewhere is still marked.

    Args:
        factory: what builds the sink.
        table: the sink's own keys, interpolated.
        place: where the table stands.
        reserved: the keys that are the daemon's own in every sink's table.

    Raises:
        ConfigurationError: an option is unknown, missing or of the wrong type, a file cannot be read, or the
            factory requires what no option can be.
    """
    from aiokpl_metricsd.sinks.signature import read_signature

    signature = read_signature(factory)
    slots = {name: slot for name, slot in signature.slots.items() if name not in reserved}
    required = (name for name, slot in signature.slots.items() if slot.is_required and name in reserved)
    for argument in (*signature.unwritable, *required):
        reason = (
            "is a key of every sink's table" if argument in reserved else "has a type that TOML cannot say"
        )
        raise place.error(
            f'the constructor requires "{argument}", which {reason}; name a factory without it', "type"
        )
    inlined = inline_files(table, slots, place, is_open=signature.is_open)
    options = convert_table(inlined, slots, place, is_open=signature.is_open, reserved=reserved)
    return options, inlined


def build_sink(options: SinkOptions) -> MetricsSink:
    """Return the sink, built but not entered.

    Raises:
        ConfigurationError: the constructor fails, or what it made is no sink.
    """
    place = options.place
    try:
        sink = options.factory(**options.options)
    except Exception as error:  # noqa: BLE001 - a constructor may raise anything; it is the operator's to mend
        if isinstance(error, ModuleNotFoundError) and options.type in EXTRAS:
            raise place.error(_name_extra(options.type, error.name or ""), "type") from None
        text = str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
        shown = redact(text, options.secrets)
        # Without the cause: its traceback may show a secret.
        raise place.error(f"building {quote(options.type)} failed: {shown}") from None
    missing = [] if callable(getattr(sink, "export", None)) else ["export"]
    # `async with` asks the class.
    missing += [name for name in ("__aenter__", "__aexit__") if not hasattr(type(sink), name)]
    if missing:
        raise place.error(
            f"{quote(options.type)} made a {type(sink).__name__}, which lacks {', '.join(missing)}"
        )
    return sink  # type: ignore[return-value]  # asked above


__all__ = [
    "BUILTIN",
    "DEFAULT_TIMEOUT_S",
    "EXTRAS",
    "HTTP_EXTRA",
    "Factory",
    "SinkOptions",
    "build_options",
    "build_sink",
    "load_factory",
]
