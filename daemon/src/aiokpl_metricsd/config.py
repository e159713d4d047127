"""A TOML file and the environment -> the configuration, checked, or one line that says what to mend.

Each table is read on its own, so that an error can name it. Without a file the embedded default goes
through the same door.

The docstrings of the structs are what operators read: `docs/generate_configuration.py` makes the tables of
`docs/configuration.md` and the example file of them, and takes a number's unit from the end of its name.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast

from msgspec import Meta, Struct, structs

from aiokpl_metrics_protocol import (
    MAX_DIMENSION_KEY_CHARS,
    MAX_DIMENSION_VALUE_CHARS,
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    MAX_UNIT_CHARS,
    MetricKind,
    MetricsLevel,
)
from aiokpl_metrics_protocol.location import MAX_PATH_BYTES
from aiokpl_metricsd.configuring.address import normalize_host, parse_address
from aiokpl_metricsd.configuring.conversion import Slot, convert_table, list_slots
from aiokpl_metricsd.configuring.description import describe_found
from aiokpl_metricsd.configuring.interpolation import (
    FILE_SUFFIX,
    collect_secrets,
    inline_files,
    interpolate,
)
from aiokpl_metricsd.configuring.place import Place, quote_key
from aiokpl_metricsd.configuring.secrecy import (
    collect_hidden,
    find_in_environment,
    redact,
    refuse_written,
    warn_open_files,
)
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.loading import BUILTIN, DEFAULT_TIMEOUT_S, SinkOptions, build_options, load_factory

DEFAULT_FILE: Final = "the embedded default"
DEFAULT: Final = """\
interval_s = 5

[sinks.console]
type = "console"
"""

# A day. Longer waits are typing errors, and an infinite one would never end.
_MAX_WAIT_S = 86_400

_Text: TypeAlias = Annotated[str, Meta(min_length=1)]
_Texts: TypeAlias = tuple[_Text, ...]
_Wait: TypeAlias = Annotated[float, Meta(gt=0, le=_MAX_WAIT_S)]
# A year: no backend takes anything older.
_Age: TypeAlias = Annotated[float, Meta(gt=0, le=366 * 86_400)]
_Mode: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^0?[0-7]{3}\Z", description='the octal digits of a file\'s mode, such as "0660"'),
]
_DimensionValue: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_DIMENSION_VALUE_CHARS)]
_SinkLevel: TypeAlias = Literal["detailed", "summary"]
_Unit: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_UNIT_CHARS)]
# Linux's highest but one: the highest, as -1, says "leave it as it is" (chown(2), read 2026-11).
_Ids: TypeAlias = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=2**32 - 2)], ...],
    Meta(min_length=1, description="an array of one number or more, each from 0 to 4294967294"),
]
_Hosts: TypeAlias = Annotated[
    tuple[_Text, ...],
    Meta(min_length=1, description="an array of one string or more, none of them empty"),
]
# Below a mebibyte a checkpoint would follow each frame or two.
_StoreBytes: TypeAlias = Annotated[int, Meta(ge=1024 * 1024)]

# Past it an export could meet the next one of a slow backend.
_MAX_SPREAD_SHARE = 0.5

_Options = TypeVar("_Options", bound=Struct)


class IngestOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[ingest]` table.

    Attributes:
        socket: the path of the ingest socket, of at most 103 bytes, with `state_dir` 98; without it the first
            of the usual places that can be created. Beside it are `PATH.lock` and `admin.sock`, and with
            `state_dir` the socket of the lanes, `PATH.lane`.
        mode: the socket's mode.
        group: the name or number of the group that the socket is given to; without it the directory's, where
            the daemon's user may give it away.
        allow_uids: the users that may send, by their numbers, of those that may write to the socket; without
            it and `allow_gids` all of them may.
        allow_gids: the groups that may send, too.
    """

    socket: _Text | None = None
    mode: _Mode = "0660"
    group: _Text | None = None
    allow_uids: _Ids | None = None
    allow_gids: _Ids | None = None

    @property
    def lists_senders(self) -> bool:
        """Whether only some may send."""
        return self.allow_uids is not None or self.allow_gids is not None

    @property
    def mode_bits(self) -> int:
        """The mode as a number, for `chmod`."""
        return int(self.mode, 8)


class HttpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[http]` table.

    Attributes:
        listen: an address for HTTP over TCP, as `host:port`; without it HTTP is on the Unix socket
            `admin.sock` alone. An IPv6 address stands in brackets, and port 0 is any that is free, named in
            the log.
        hosts: the names and addresses, without a port, under which it may be asked over TCP; whoever asks
            for another one, as a page in a browser does whose name leads here, gets status 421. Without it
            any is served where the connection comes in from outside. Over the loopback `localhost` and
            the loopback's addresses always are, and others only where they are listed.
    """

    listen: _Text | None = None
    hosts: _Hosts | None = None


class SelfMetricsOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[self_metrics]` table.

    Attributes:
        enabled: hand the daemon's own counters to every sink, as series like any other.
    """

    enabled: bool = False


class LimitOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[limits]` table.

    Attributes:
        max_series: series in all; the events of any further one go to a series of the same name with the
            dimension `overflow=true`, so that sums stay right.
        live_series: how many of the most recently active series answer for the last seconds; the rest answer
            from their open window.
    """

    max_series: Annotated[int, Meta(ge=1)] = 100_000
    live_series: Annotated[int, Meta(ge=0)] = 2_000


class MetricOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[metrics.NAME]` table.

    Attributes:
        kind: how values combine; without it as the KPL does for its own names, else as the producer says,
            else as a counter.
        unit: the unit of the values, as `"ms"`, `"bytes"` or `"count"`; without it the KPL's for its own
            names, else the producer's.
    """

    kind: MetricKind | None = None
    unit: _Unit | None = None


class Configuration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an operator decides.

    Attributes:
        level: how much detail is kept: `summary` merges the dimensions `shard` and `error_code` away, `none`
            keeps nothing.
        interval_s: the length of a window; windows are aligned to the epoch.
        grace_s: how long a window stays open after its end, for late events. Where that is `interval_s` or
            more, several windows are open at once, each takes its own events, and sinks get each one that
            much later.
        state_dir: the directory for what must survive the daemon; without it all is in memory.
        journal_max_bytes: events on disk in `state_dir`; past it the sums of the open windows are written
            down instead, and the events go.
        outbox_max_bytes: undelivered windows in `state_dir`, compressed; past it the oldest window goes,
            counted as dropped.
        fsync: wait for the disk before anything is acknowledged; without it what is acknowledged survives
            the process, not the machine.
        shutdown_timeout_s: how long the last exports may take after SIGTERM.
        ingest: where events come in.
        http: where the daemon is looked at.
        self_metrics: what it tells of itself through the sinks.
        limits: how much is kept.
        dimensions: added to every series; a producer's own value wins.
        metrics: kinds and units by metric name.
        sinks: by the name of their table, in the order of the file.
    """

    level: MetricsLevel = MetricsLevel.DETAILED
    interval_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    grace_s: Annotated[float, Meta(ge=0, le=60)] = 2.0
    state_dir: _Text | None = None
    journal_max_bytes: _StoreBytes = 32 * 1024 * 1024
    outbox_max_bytes: _StoreBytes = 256 * 1024 * 1024
    fsync: bool = False
    shutdown_timeout_s: _Wait = 5.0
    ingest: IngestOptions = IngestOptions()
    http: HttpOptions = HttpOptions()
    self_metrics: SelfMetricsOptions = SelfMetricsOptions()
    limits: LimitOptions = LimitOptions()
    dimensions: dict[str, str] = {}
    metrics: dict[str, MetricOptions] = {}
    sinks: dict[str, SinkOptions]


class CommonOptions(Struct, frozen=True, kw_only=True):
    """What the table of every sink takes.

    Attributes:
        type: a built-in sink's name, or the import string of your own, `package.module:ClassOrFactory`.
        level: `summary` merges the dimensions `shard` and `error_code` away for this sink; totals are kept.
        include: globs on metric names, such as `"User*"`; empty lets every name in.
        exclude: globs on metric names; what matches one is left out, even where it is included.
        drop_dimensions: keys of dimensions to be merged away; totals are kept.
        interval_s: the length of this sink's windows, a multiple of the daemon's; without it the daemon's.
        timeout_s: how long one export may take before it counts as failed.
        max_age_s: how old a window may become, from its end, before it is given up, counted as expired. The
            backend's own limit holds where it is shorter, and alone without this.
        at_most_once: for a backend that adds what comes twice: what may have been taken is not sent again,
            but counted as uncertain.
        spread_s: over how long the exports of a fleet are spread after the end of a window, half of
            `interval_s` at most; each daemon has a place of its own in it, drawn from `POD_NAME` or the
            host's name. Without it a tenth of `interval_s`, 10 at most, for `cloudwatch`, `datadog`,
            `opentelemetry` and sinks of your own that ask for it, and 0 for any other. The last windows, at
            SIGTERM, never wait.
    """

    type: _Text
    level: _SinkLevel = "detailed"
    include: _Texts = ()
    exclude: _Texts = ()
    drop_dimensions: _Texts = ()
    interval_s: Annotated[int, Meta(ge=1, le=_MAX_WAIT_S)] | None = None
    timeout_s: _Wait = DEFAULT_TIMEOUT_S
    max_age_s: _Age | None = None
    at_most_once: bool = False
    spread_s: Annotated[float, Meta(ge=0, le=_MAX_WAIT_S * _MAX_SPREAD_SHARE)] | None = None


_TABLES = ("ingest", "http", "self_metrics", "limits", "dimensions", "metrics", "sinks")


def load(path: str | None, environ: Mapping[str, str]) -> Configuration:
    """Return the configuration of a file, or the embedded default.

    The modules of the configured sinks are imported; nothing is built or opened.

    Args:
        path: of the TOML file; None for the embedded default.
        environ: the variables that the file may name.

    Raises:
        ConfigurationError: the file cannot be read or used.
    """
    place = Place(DEFAULT_FILE if path is None else path)
    text = DEFAULT if path is None else _read(path, place)
    secrets = tuple(find_in_environment(environ))
    try:
        return _build(interpolate(_parse(text, place), environ, place), place, secrets)
    except ConfigurationError as error:
        # A module that was imported may have said anything.
        raise ConfigurationError(redact(str(error), secrets)) from None
    except RecursionError:
        raise place.error("tables or arrays are nested too deeply") from None


def find_sinks_place(configuration: Configuration) -> Place:
    """Return where the tables of the sinks stand, for an error that is about several of them."""
    return next(
        (Place(sink.place.file, sink.place.table[:-1]) for sink in configuration.sinks.values()), Place()
    )


def _read(path: str, place: Place) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs import time
            return file.read()
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise place.error(f"not UTF-8 at byte {error.start}") from None
    except ValueError:
        raise place.error("no path") from None


def _parse(text: str, place: Place) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).removesuffix(")").rpartition(" (at ")
        position = re.fullmatch(r"line (\d+), column (\d+)", where)
        if position is None:
            # The parser says "end of document".
            lines = text.split("\n")
            where = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        raise place.error(f"{where}: {what[:1].lower()}{what[1:]}") from None


def _build(document: dict[str, object], place: Place, secrets: tuple[str, ...]) -> Configuration:
    slots = list_slots(Configuration) | dict.fromkeys(_TABLES, Slot(dict[str, Any]))
    top = convert_table(inline_files(document, slots, place), slots, place)
    # The tables are read from the document itself: what is converted has lost the marks of interpolation.
    tables = {name: cast("dict[str, object]", document[name]) for name in _TABLES if name in document}
    ingest = _convert(IngestOptions, tables.get("ingest", {}), place.below("ingest"))
    _check_socket(ingest.socket, place.below("ingest"))
    http = _convert(HttpOptions, tables.get("http", {}), place.below("http"))
    _check_http(http, place.below("http"))
    settings = {key: value for key, value in top.items() if key not in _TABLES}
    configuration = Configuration(
        **settings,
        ingest=ingest,
        http=http,
        self_metrics=_convert(
            SelfMetricsOptions, tables.get("self_metrics", {}), place.below("self_metrics")
        ),
        limits=_convert(LimitOptions, tables.get("limits", {}), place.below("limits")),
        dimensions=_build_dimensions(tables.get("dimensions", {}), place.below("dimensions")),
        metrics=_build_metrics(tables.get("metrics", {}), place.below("metrics")),
        sinks={},
    )
    sinks = _list_tables(tables.get("sinks", {}), place.below("sinks"))
    if not sinks:
        raise place.error('no sink; expected at least one, such as [sinks.console] with type = "console"')
    built = {
        name: _build_sink(table, configuration.interval_s, place.below("sinks", name), secrets)
        for name, table in sinks
    }
    return structs.replace(configuration, sinks=built)


def _convert(struct: type[_Options], table: Mapping[str, object], place: Place) -> _Options:
    slots = list_slots(struct)
    return struct(**convert_table(inline_files(table, slots, place), slots, place))


def _list_tables(table: Mapping[str, object], place: Place) -> list[tuple[str, dict[str, object]]]:
    """Return the tables in a table that holds nothing else."""
    for name, value in table.items():
        if not isinstance(value, dict):
            raise place.error(f"expected a table, found {describe_found(value, name)}", quote_key(name))
    return [(name, cast("dict[str, object]", value)) for name, value in table.items()]


def _check_socket(path: str | None, place: Place) -> None:
    if path is not None and len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise place.error(
            f"expected a path of at most {MAX_PATH_BYTES} bytes, found {len(os.fsencode(path))}", "socket"
        )


def _check_http(http: HttpOptions, place: Place) -> None:
    try:
        if http.listen is not None:
            parse_address(http.listen)
    except ValueError:
        raise place.error('expected "host:port", such as "127.0.0.1:9464"', "listen") from None
    try:
        for host in http.hosts or ():
            normalize_host(host)
    except ValueError:
        expected = 'expected names or addresses without a port, such as "localhost"'
        raise place.error(expected, "hosts") from None
    if http.hosts is not None and http.listen is None:
        raise place.error("there is no TCP without listen; set it as well, or leave this out", "hosts")


def _build_dimensions(table: Mapping[str, object], place: Place) -> dict[str, str]:
    if len(table) > MAX_DIMENSIONS:
        raise place.error(f"expected at most {MAX_DIMENSIONS} dimensions, found {len(table)}")
    for key in table:
        if not 1 <= len(key) <= MAX_DIMENSION_KEY_CHARS:
            raise place.error(f"expected a key of 1 to {MAX_DIMENSION_KEY_CHARS} characters", quote_key(key))
    # No OPTION_file here: the keys are the operator's own, and one may end like that.
    return convert_table(table, dict.fromkeys(table, Slot(_DimensionValue)), place)


def _build_metrics(table: Mapping[str, object], place: Place) -> dict[str, MetricOptions]:
    for name in table:
        if not 1 <= len(name) <= MAX_NAME_CHARS:
            raise place.error(f"expected a name of 1 to {MAX_NAME_CHARS} characters", quote_key(name))
    return {name: _convert(MetricOptions, own, place.below(name)) for name, own in _list_tables(table, place)}


def _collect_hidden(type_: str, marked: Mapping[str, object]) -> Iterator[str]:
    """Yield what no line of the log may show: of an operator's own sink all that comes from elsewhere."""
    yield from collect_hidden(marked)
    if type_ not in BUILTIN:
        yield from collect_secrets(marked)


def _build_sink(
    table: Mapping[str, object], base_s: int, place: Place, secrets: tuple[str, ...]
) -> SinkOptions:
    slots = list_slots(CommonOptions)
    names = frozenset(slots) | frozenset(name + FILE_SUFFIX for name in slots)
    # The type stays marked where it came from a variable, so that no error shows it.
    given = inline_files({key: value for key, value in table.items() if key in names}, slots, place)
    common = CommonOptions(**convert_table(given, slots, place))
    factory = load_factory(cast("str", given["type"]), place)
    own = {key: value for key, value in table.items() if key not in names}
    refuse_written(own, place)
    options, marked = build_options(factory, own, place, reserved=tuple(slots))
    interval_s = base_s if common.interval_s is None else common.interval_s
    if interval_s % base_s:
        raise place.error(f"expected a multiple of the daemon's {base_s}, found {interval_s}", "interval_s")
    limit_s = interval_s * _MAX_SPREAD_SHARE
    if common.spread_s is not None and common.spread_s > limit_s:
        raise place.error(
            f"expected at most half of interval_s, {limit_s:g}, found {common.spread_s:g}", "spread_s"
        )
    return SinkOptions(
        name=place.table[-1],
        type=common.type,
        factory=factory,
        interval_s=interval_s,
        level=MetricsLevel(common.level),
        include=common.include,
        exclude=common.exclude,
        drop_dimensions=common.drop_dimensions,
        timeout_s=common.timeout_s,
        max_age_s=common.max_age_s,
        at_most_once=common.at_most_once,
        spread_s=common.spread_s,
        options=options,
        place=place,
        secrets=(*collect_secrets(marked), *secrets),
        hidden=(*_collect_hidden(common.type, marked), *secrets),
        warnings=tuple(warn_open_files(marked, place)),
    )


__all__ = [
    "DEFAULT",
    "DEFAULT_FILE",
    "CommonOptions",
    "Configuration",
    "ConfigurationError",
    "HttpOptions",
    "IngestOptions",
    "LimitOptions",
    "MetricOptions",
    "SelfMetricsOptions",
    "SinkOptions",
    "find_sinks_place",
    "load",
]
