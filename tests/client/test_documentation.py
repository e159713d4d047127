"""Every Python sample of the client's pages runs, and their tables say what the code does."""

import re
from pathlib import Path

import pytest

from aiokpl_metrics_client import DropReason, MetricsLevel
from aiokpl_metrics_client.folding import MAX_WINDOWS
from aiokpl_metrics_client.outbound import (
    FOLD_BYTES,
    FOLD_BYTES_PER_SERIES,
    MAX_PENDING_BYTES,
    MAX_UNACKNOWLEDGED_BYTES,
    NO_LANE_S,
)
from tests.client.door import Door
from tests.support.child import ROOT, Nursery

PAGE = ROOT / "docs" / "client.md"
README = ROOT / "client" / "README.md"


def _read_fences(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


SAMPLES = [
    pytest.param(fence, id=f"{page.stem}-{number}")
    for page in (PAGE, README)
    for number, fence in enumerate(_read_fences(page))
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_runs_and_its_events_arrive(door: Door, nursery: Nursery, sample: str) -> None:
    if "import aiokpl\n" in sample:
        pytest.importorskip("aiokpl")
    script = nursery.directory / "sample.py"
    script.write_text(sample)
    child = nursery.start_python(
        "-W", "error", str(script), environ={"AIOKPL_METRICSD_SOCKET": str(door.path)}
    )
    assert child.wait() == 0, child.stderr
    door.read()
    door.check()
    records = sample.count(".put(") + sample.count(".record(")
    if "lookup" in sample:
        assert door.events() == 3
    elif "/nowhere" in sample:
        assert door.events() == 0
    elif 'merge="sum"' in sample:
        # Told again if a second ends meanwhile.
        assert set(door.values()) == {3.0}
    else:
        assert door.events() == records


def _table(first: str) -> set[str]:
    """Return the words in the first column of the table whose head begins with `first`."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_the_table_of_reasons_is_complete() -> None:
    assert _table("reason") == {reason.value for reason in DropReason}


def test_the_table_of_levels_is_complete() -> None:
    assert _table("level") == {level.name for level in MetricsLevel}


def test_the_bounds_are_the_ones_that_the_page_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"{MAX_PENDING_BYTES // 2**20} MiB" in text
    assert f"{FOLD_BYTES_PER_SERIES // 2**10} KiB more for each series" in text
    assert f"{MAX_UNACKNOWLEDGED_BYTES // 2**10} KiB" in text
    assert f"{MAX_WINDOWS} windows" in text
    assert (FOLD_BYTES, NO_LANE_S) == (2**20, 60.0)
    assert "The first mebibyte" in text
    assert "wait a minute" in text
