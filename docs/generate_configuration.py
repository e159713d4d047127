"""The structs and constructors of the configuration -> `docs/configuration.md` and an example file.

Every table of keys in the page stands between two markers and is made here; the prose around them is written
by hand and stays. `deploy/sinks.example.toml` is made as a whole. Descriptions are the docstrings beside the
fields, types and ranges the annotations that the daemon itself checks by, defaults the fields' own, and a
unit is the end of a number's name, else `Meta(extra={"unit": ...})`. With `--check` nothing is written: a
file that would change is named, and the status is 1.
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from aiokpl_metricsd.config import CommonOptions, Configuration, MetricOptions
from aiokpl_metricsd.configuring.conversion import list_slots
from aiokpl_metricsd.configuring.description import describe_expected
from aiokpl_metricsd.sinks.loading import BUILTIN, load_factory
from aiokpl_metricsd.sinks.signature import read_signature

__all__ = ["EXAMPLES", "Key", "Table", "generate", "list_tables", "main", "read_descriptions"]

ROOT = Path(__file__).parent.parent
PAGE = Path("docs/configuration.md")
EXAMPLE = Path("deploy/sinks.example.toml")

# What the example file says of keys that are required or have no default. TOML.
EXAMPLES: Final[Mapping[str, str]] = {
    "state_dir": '"/var/lib/aiokpl-metricsd"',
    "ingest.socket": '"/run/aiokpl-metricsd/metrics.sock"',
    "ingest.group": '"1000"',
    "ingest.allow_uids": "[1000, 1001]",
    "ingest.allow_gids": "[2000]",
    "http.listen": '"127.0.0.1:9464"',
    "http.hosts": '["localhost", "127.0.0.1"]',
    "metrics.kind": '"histogram"',
    "metrics.unit": '"ms"',
    "sinks.interval_s": "300",
    "sinks.max_age_s": "86400",
    "sinks.spread_s": "20",
    "sinks.cloudwatch.region": '"eu-west-1"',
    "sinks.cloudwatch.endpoint_url": '"https://monitoring.eu-west-1.amazonaws.com"',
    "sinks.cloudwatch.aws_access_key_id": '"${AWS_ACCESS_KEY_ID}"',
    "sinks.cloudwatch.aws_secret_access_key": '"${AWS_SECRET_ACCESS_KEY}"',
    "sinks.cloudwatch.aws_session_token": '"${AWS_SESSION_TOKEN}"',
    "sinks.datadog.api_key": '"${DD_API_KEY}"',
    "sinks.datadog.app_key": '"${DD_APP_KEY}"',
    "sinks.datadog.host": '"${NODE_NAME}"',
    "sinks.datadog.endpoint_url": '"https://api.datadoghq.com"',
    "sinks.datadog.proxy": '"http://proxy.example:3128"',
    "sinks.jsonl.path": '"/var/log/metrics.jsonl"',
    "sinks.memory.max_exports": "100",
    "sinks.opentelemetry.endpoint": '"http://collector:4317"',
    "sinks.opentelemetry.resource": '{ "service.name" = "orders", "service.instance.id" = "${POD_NAME}" }',
    "sinks.opentelemetry.headers": '{ "x-api-key" = "${OTLP_API_KEY}" }',
}

# Names of quantities whose last word is no unit by itself.
_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "ms": "milliseconds"}
_MIB: Final = 1024 * 1024
# An array of more items is shown by its ends.
_MAX_SHOWN_ITEMS: Final = 6
_WIDTH: Final = 100

_HEAD = """\
# Every setting of aiokpl-metricsd, with what it means.
#
# A line without "#" before its key has the default, so that it can be left out; but there is no sink by
# default, and what a sink requires is an example. A line with "#" before its key has an example, where the
# default is none, or a default that a variable of the environment overrules.
# Nobody needs all of this: most files have an interval, a state_dir, and one sink or two.
# `aiokpl-metricsd check --config FILE` says whether a file can be used.
# Made by `make docs` from the structs of the configuration; docs/configuration.md says more.
"""


class Key(NamedTuple):
    """One key of a table.

    Attributes:
        name: the key.
        annotation: what it takes.
        default: its default; `inspect.Parameter.empty` where it is required.
        meaning: in words.
    """

    name: str
    annotation: Any
    default: object
    meaning: str

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty


class Table(NamedTuple):
    """One table of the configuration.

    Attributes:
        name: in the markers: `top`, `ingest`, `metrics`, `sinks`, `sinks.console`, …
        keys: in the order of their declaration.
    """

    name: str
    keys: tuple[Key, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what has changed, or with `--check` name it."""
    given = sys.argv[1:] if arguments is None else arguments
    if not set(given) <= {"--check"}:
        print("generate_configuration.py takes --check and nothing else")
        return 2
    stale = 0
    for path, text in generate(ROOT).items():
        if (ROOT / path).is_file() and (ROOT / path).read_text(encoding="utf-8") == text:
            continue
        if given:
            print(f"{path}: not what the configuration's structs say; run `make docs`")
            stale = 1
        else:
            (ROOT / path).write_text(text, encoding="utf-8")
            print(f"{path}: written")
    return stale


def generate(root: Path) -> dict[Path, str]:
    """Return the text of every generated file, by its path from the root."""
    tables = list_tables()
    page = (root / PAGE).read_text(encoding="utf-8")
    return {PAGE: fill_page(page, tables), EXAMPLE: render_example(tables)}


# ---- what there is


def list_tables() -> list[Table]:
    """Return every table of the configuration, in the order of the example file."""
    hints = get_type_hints(Configuration, include_extras=True)
    nested = {name: hint for name, hint in hints.items() if _is_struct(hint)}
    top = read_struct("top", Configuration)
    free = (*nested, "dimensions", "metrics", "sinks")
    tables = [Table("top", tuple(key for key in top.keys if key.name not in free))]
    tables += [read_struct(name, struct) for name, struct in nested.items()]
    tables += [read_struct("metrics", MetricOptions), read_struct("sinks", CommonOptions)]
    # The first one shows the keys of every sink as well.
    names = sorted(BUILTIN, key=lambda name: (name != "console", name))
    tables += [read_factory(f"sinks.{name}", load_factory(name)) for name in names]
    return tables


def _is_struct(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def read_struct(name: str, struct: type[Struct]) -> Table:
    """Read a table's keys out of a struct."""
    defaults = {
        field.name: inspect.Parameter.empty if field.required else field.default
        for field in msgspec.structs.fields(struct)
    }
    annotations = {key: slot.annotation for key, slot in list_slots(struct).items()}
    return _build_table(name, annotations, defaults, read_descriptions(struct, "Attributes"))


def read_factory(name: str, factory: Callable[..., object]) -> Table:
    """Read a table's keys out of the constructor of a sink."""
    slots = read_signature(factory).slots
    parameters = inspect.signature(factory).parameters
    annotations = {key: slot.annotation for key, slot in slots.items()}
    defaults = {key: parameters[key].default for key in slots}
    return _build_table(name, annotations, defaults, read_descriptions(factory, "Args"))


def _build_table(
    name: str, annotations: Mapping[str, Any], defaults: Mapping[str, object], meanings: Mapping[str, str]
) -> Table:
    missing = [key for key in annotations if key not in meanings]
    if missing:
        raise SystemExit(f"[{name}] {', '.join(missing)}: the docstring says nothing of it")
    return Table(name, tuple(Key(key, annotations[key], defaults[key], meanings[key]) for key in annotations))


def read_descriptions(documented: object, section: str) -> dict[str, str]:
    """Return what a docstring's section says of each name, on one line, as a sentence."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    if f"{section}:" not in lines:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in lines[lines.index(f"{section}:") + 1 :]:
        entry = re.match(r"^    (\w+): (.*)", line)
        if entry is not None:
            name = entry[1]
            found[name] = entry[2]
        elif line.startswith("        "):
            found[name] += f" {line.strip()}"
        else:
            break
    return {name: text[:1].upper() + text[1:] for name, text in found.items()}


# ---- words


def describe_type(key: Key) -> str:
    """Return what a key takes, with its range."""
    return re.sub(r"^an? ", "", describe_expected(key.annotation))


def find_unit(key: Key) -> str:
    """Return the unit of a number; "" for anything else."""
    expected = describe_type(key)
    given = _find_extra(key.annotation).get("unit")
    is_number = expected.startswith(("whole number", "number"))
    if given is None and is_number:
        last = key.name.rsplit("_", 1)[-1]
        if last == key.name:
            raise SystemExit(
                f'{key.name}: no unit; end its name with one, or write Meta(extra={{"unit": …}})'
            )
        given = _UNITS.get(last, last)
    return "" if given is None else _UNITS.get(given, given)


def _find_extra(annotation: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in get_args(annotation):
        found |= (part.extra or {}) if isinstance(part, Meta) else _find_extra(part)
    return found


def encode_value(value: object, *, is_short: bool = False) -> str:
    """Return a default as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return encode_value(value.value)
    if isinstance(value, str):
        return msgspec.json.encode(str(value)).decode()
    if isinstance(value, tuple | list):
        items = [encode_value(item) for item in value]
        if is_short and len(items) > _MAX_SHOWN_ITEMS:
            items = [*items[:3], "…", items[-1]]
        return f"[{', '.join(items)}]"
    return str(value)


def describe_default(key: Key) -> str:
    """Return the default's cell."""
    if key.is_required:
        return "required"
    if key.default is None:
        return "none"
    value = key.default
    is_large = isinstance(value, int) and not isinstance(value, bool) and value >= _MIB and not value % _MIB
    mebibytes = f", {value // _MIB} MiB" if is_large and isinstance(value, int) else ""
    return f"`{encode_value(value, is_short=True)}`{mebibytes}"


# ---- the page


def fill_page(page: str, tables: Sequence[Table]) -> str:
    """Return the page with each table between its markers."""
    rendered = {table.name: render_table(table) for table in tables}
    pattern = re.compile(
        r"^<!-- begin (?P<name>\S+) -->$.*?^<!-- end (?P=name) -->$", re.DOTALL | re.MULTILINE
    )
    placed = [match["name"] for match in pattern.finditer(page)]
    if sorted(placed) != sorted(rendered):
        wrong = sorted(set(placed) ^ set(rendered)) or "one twice"
        raise SystemExit(f"{PAGE}: it needs a pair of markers, <!-- begin NAME -->, for each table: {wrong}")

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- begin {name} -->\n{rendered[name]}<!-- end {name} -->"

    return pattern.sub(fill, page)


def render_table(table: Table) -> str:
    """Return a Markdown table of the keys."""
    if not table.keys:
        return "\nIt has no options of its own.\n\n"
    rows = ["| key | type | unit | default | meaning |", "|---|---|---|---|---|"]
    for key in table.keys:
        cells = (
            f"`{key.name}`",
            describe_type(key),
            find_unit(key),
            describe_default(key),
            key.meaning,
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n" + "\n".join(rows) + "\n\n"


# ---- the example


def render_example(tables: Sequence[Table]) -> str:
    """Return the example file."""
    by_name = {table.name: table for table in tables}
    common = by_name.pop("sinks")
    parts = [_HEAD]
    for name, table in by_name.items():
        lines: list[str] = []
        if name.startswith("sinks."):
            kind = name.removeprefix("sinks.")
            lines += [f"[{name}]", f"type = {encode_value(kind)}"]
            if kind == "console":
                lines += _iterate_lines(common, "sinks", without=("type",))
        elif name == "metrics":
            lines += ["[dimensions]", "# Constant dimensions, added to every series; your own keys."]
            lines += ['#pod = "${POD_NAME}"', "", "# One table for each metric, by its name."]
            lines += ["[metrics.CheckoutLatency]"]
        elif name != "top":
            lines.append(f"[{name}]")
        lines += _iterate_lines(table, "" if name == "top" else name)
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _iterate_lines(table: Table, prefix: str, without: Sequence[str] = ()) -> Iterator[str]:
    for key in table.keys:
        if key.name in without:
            continue
        path = f"{prefix}.{key.name}" if prefix else key.name
        yield from textwrap.wrap(_comment(key), _WIDTH, initial_indent="# ", subsequent_indent="#   ")
        if key.is_required or key.default is None:
            if path not in EXAMPLES:
                raise SystemExit(f"{path}: it has no default; give EXAMPLES in {Path(__file__).name} a value")
            yield f"{'' if key.is_required else '#'}{key.name} = {EXAMPLES[path]}"
        else:
            # A class of its own tells a default from the same word given, which a variable does not overrule.
            is_overruled = (
                isinstance(key.default, str)
                and not isinstance(key.default, Enum)
                and type(key.default) is not str
            )
            yield f"{'#' if is_overruled else ''}{key.name} = {encode_value(key.default)}"


def _comment(key: Key) -> str:
    unit = find_unit(key)
    # What is counted is said by the key's name.
    amount = f", in {unit}" if unit in {*_UNITS.values(), "bytes"} else ""
    kind = describe_type(key)
    return f"{key.meaning} ({kind}{amount})".replace("`", "")


if __name__ == "__main__":
    sys.exit(main())
