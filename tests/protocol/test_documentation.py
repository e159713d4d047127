"""What docs/protocol.md shows is true: dumps decode, samples run, tables say what the code does."""

import ast
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import aiokpl_metrics_protocol
from aiokpl_metrics_protocol import (
    CATALOG,
    SUMMED_GAUGE,
    AckFrame,
    Buckets,
    Column,
    ColumnsFrame,
    EventsFrame,
    Folded,
    FoldedFrame,
    HelloFrame,
    MetricEvent,
    MetricKind,
    ProtocolError,
    Reason,
    Series,
    Totals,
    decode,
    decode_series,
    limits,
    location,
)
from tests.protocol import page
from tests.protocol.golden import decode_golden, describe, dump, read_golden
from tests.protocol.page import Dump

DUMPS = page.read_dumps()

STRUCTS: dict[str, tuple[type[msgspec.Struct], int | None]] = {
    "Events frame": (EventsFrame, 1),
    "Row": (MetricEvent, None),
    "Columns frame": (ColumnsFrame, 2),
    "Totals": (Totals, None),
    "Column": (Column, None),
    "Series": (Series, None),
    "Folded frame": (FoldedFrame, 3),
    "Folded set": (Folded, None),
    "Buckets": (Buckets, None),
    "Hello frame": (HelloFrame, 4),
    "Ack frame": (AckFrame, 5),
}
EMPTY_DEFAULTS: dict[str, object] = {"[]": (), "{}": {}, "nil": None, '""': "", "false": False}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    """Bind a plain datagram socket, as the daemon's front door is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        # A relative name: the temporary directory may be deeper than a socket address is long.
        bound.bind(os.path.relpath(tmp_path / "metrics.sock"))
        bound.settimeout(10)
        yield bound


# ---- samples


def _run(command: list[str], socket_path: str, *, timeout_s: float = 100, **environ: str) -> str:
    finished = subprocess.run(
        command,
        env={**os.environ, "AIOKPL_METRICSD_SOCKET": socket_path, **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout_s,
    )
    return finished.stdout


def test_the_producer_in_python_has_ten_lines_and_no_code_of_ours() -> None:
    sample = page.read_sample("python")
    assert len([line for line in sample.splitlines() if line]) == 10
    imports = [node for node in ast.walk(ast.parse(sample)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [name.name for node in imports for name in node.names] == ["os", "socket", "msgpack"]
    assert "aiokpl_" not in sample


def test_what_the_producer_in_python_sends_decodes_to_its_events(door: socket.socket, tmp_path: Path) -> None:
    pytest.importorskip("msgpack")
    script = tmp_path / "producer.py"
    script.write_text(page.read_sample("python"), encoding="utf-8")
    assert _run([sys.executable, str(script)], door.getsockname()) == ""
    assert decode(door.recv(limits.MAX_DATAGRAM_BYTES + 1)) == EventsFrame(
        [
            MetricEvent("orders.placed", 1.0, 0.0, (("country", "CH"),)),
            MetricEvent("orders.total", 49.5, 0.0, (), "histogram", "CHF"),
        ],
    )


def test_the_producer_in_python_counts_what_it_drops_when_nobody_listens(tmp_path: Path) -> None:
    pytest.importorskip("msgpack")
    nobody = os.path.relpath(tmp_path / "metrics.sock")
    output = _run([sys.executable, "-c", page.read_sample("python")], nobody)
    assert output.startswith("dropped 2 events: ")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
@pytest.mark.timeout(330)
def test_what_the_producer_in_go_sends_decodes_to_its_event(door: socket.socket, tmp_path: Path) -> None:
    script = tmp_path / "main.go"
    script.write_text(page.read_sample("go"), encoding="utf-8")
    # The standard library is all it needs, so nothing is fetched; it is compiled here, which takes a busy
    # machine minutes.
    offline = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOCACHE": str(tmp_path / "cache")}
    assert _run(["go", "run", str(script)], door.getsockname(), timeout_s=300, **offline) == ""
    expected = EventsFrame([MetricEvent("orders.placed", 1.0, 0.0, (("country", "CH"),))])
    assert decode(door.recv(limits.MAX_DATAGRAM_BYTES + 1)) == expected


# ---- dumps


@pytest.mark.parametrize("shown", DUMPS, ids=[shown.name for shown in DUMPS])
def test_a_hex_dump_is_the_golden_frame_and_decodes_to_the_frame_shown(shown: Dump) -> None:
    golden = read_golden()[shown.name]
    assert shown.data.hex(" ") == golden.data.hex(" ")
    assert dump(json.loads(shown.value)) == dump(golden.value)
    assert dump(describe(decode_golden(golden))) == dump(json.loads(shown.value))


def test_there_is_a_hex_dump_of_every_frame_and_of_a_series() -> None:
    shown = {next(iter(json.loads(found.value))) for found in DUMPS}
    assert shown == {"EventsFrame", "ColumnsFrame", "FoldedFrame", "HelloFrame", "AckFrame", "Series"}
    # None was overlooked because its form differs.
    assert page.PATH.read_text(encoding="utf-8").count("```hexdump") == len(DUMPS)


# ---- structures


@pytest.mark.parametrize("heading", STRUCTS)
def test_a_table_of_items_has_the_fields_in_their_order_and_their_defaults(heading: str) -> None:
    cls, tag = STRUCTS[heading]
    rows = page.read_table(heading)
    if tag is not None:
        number, field, kind, meaning, _ = rows.pop(0)
        assert (number, field, kind, meaning) == ("0", "", "integer", f"{tag}, the tag")
        assert cls.__struct_config__.tag == tag
    structure = msgspec.structs.fields(cls)
    first = 0 if tag is None else 1
    assert [row[1] for row in rows] == [field.name for field in structure]
    assert [int(row[0]) for row in rows] == list(range(first, first + len(structure)))
    assert [_read_default(row[4]) for row in rows] == [_find_default(field) for field in structure]


def _read_default(cell: str) -> object:
    if not cell:
        return msgspec.NODEFAULT
    return EMPTY_DEFAULTS[cell] if cell in EMPTY_DEFAULTS else int(cell)


def _find_default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def test_a_pair_has_two_items_no_more_and_no_less() -> None:
    for pair in (["k"], ["k", "v", "more"]):
        with pytest.raises(ProtocolError):
            decode(msgspec.msgpack.encode([1, [["a", 1, 0, [pair]]]]))


def test_the_formula_puts_the_values_named_into_the_buckets_shown() -> None:
    values = [0.5, 2.0, 2.0, 0.0, -1.0, 3.0]
    frame = decode(read_golden()["folded-histogram"].data)
    assert isinstance(frame, FoldedFrame)
    (folded,) = frame.sets
    assert (folded.count, folded.sum) == (len(values), sum(values))
    assert (folded.min, folded.max, folded.last) == (min(values), max(values), values[-1])
    buckets = folded.buckets
    assert buckets is not None
    assert buckets.zero_count == values.count(0.0)
    for sign, offset, counts in (
        (1, buckets.positive_offset, buckets.positive_counts),
        (-1, buckets.negative_offset, buckets.negative_counts),
    ):
        side = [value * sign for value in values if value * sign > 0]
        indexes = Counter(math.ceil(math.log2(value) * 2**buckets.scale) - 1 for value in side)
        assert {offset + index: count for index, count in enumerate(counts) if count} == indexes


def test_the_dumps_of_one_producer_tell_a_consistent_story() -> None:
    frames = [decode(found.data) for found in DUMPS if not found.name.startswith("series")]
    numbered = [frame for frame in frames if isinstance(frame, ColumnsFrame | FoldedFrame)]
    assert len({frame.producer_id for frame in numbered}) == 1
    assert [frame.sequence for frame in numbered] == sorted({frame.sequence for frame in numbered})
    first, second = numbered[0], numbered[1]
    assert isinstance(first, ColumnsFrame)
    (column,) = first.columns
    assert isinstance(column.values, list)
    assert second.totals.sent == first.totals.sent + len(column.values)
    assert decode_series(column.series) == decode_series(read_golden()["series-full"].data)


# ---- words and numbers


def test_the_table_of_reasons_is_the_enumeration() -> None:
    rows = page.read_table("What a mistake costs")
    assert [row[0] for row in rows] == [reason.value for reason in Reason]
    whole = [row[0] for row in rows if row[1] == "the frame"]
    errors = {error.reason.value for error in ProtocolError.__subclasses__()}
    assert set(whole) == errors | {Reason.UNEXPECTED_FRAME.value, Reason.NOT_ALLOWED.value}


def test_the_table_of_kinds_is_the_enumeration() -> None:
    kinds = [kind.value for kind in MetricKind]
    assert [row[0] for row in page.read_table("Kinds and units")] == [*kinds, SUMMED_GAUGE]


def test_the_table_of_names_is_the_catalog() -> None:
    text = page.PATH.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (\w+) \|$", text, re.MULTILINE)
    assert rows == [(name, found.kind.value, found.unit) for name, found in CATALOG.items()]


def test_the_table_of_limits_has_the_values_of_the_constants() -> None:
    rows = page.read_table("Limits")
    assert {row[2]: int(row[1].replace(",", "")) for row in rows} == {
        name: getattr(limits, name) for name in limits.__all__ if name.startswith("MAX_")
    }
    assert all(hasattr(aiokpl_metrics_protocol, row[2]) for row in rows)


def test_the_places_of_the_socket_are_those_that_are_looked_at() -> None:
    environ = {"XDG_RUNTIME_DIR": "$XDG_RUNTIME_DIR", "TMPDIR": "$TMPDIR"}
    text = page.PATH.read_text(encoding="utf-8")
    found = re.findall(r"^\d\. `([^`]+)`", text, re.MULTILINE)
    assert [path.replace("UID", "7") for path in found] == list(location.socket_candidates(environ, 7))
    assert f"`{location.ENVIRONMENT_VARIABLE}`" in text
    assert f"at most {location.MAX_PATH_BYTES} bytes" in text


def test_every_sentence_has_a_line_of_its_own() -> None:
    prose = re.sub(r"^```.*?^```$", "", page.PATH.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", " "))]
    assert [line for line in lines if re.search(r"[.!?] [A-Z]", line)] == []
