from pathlib import Path

import pytest

from aiokpl_metricsd.examining.finding import Outcome
from aiokpl_metricsd.examining.memory import check_limit, estimate_need, read_limit

MIB = 1 << 20


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_least_limit_on_the_way_to_the_root_holds(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/kubepods/pod1/c1\n")
    write(tmp_path / "cg/kubepods/memory.max", "max\n")
    write(tmp_path / "cg/kubepods/pod1/memory.max", f"{96 * MIB}\n")
    write(tmp_path / "cg/kubepods/pod1/c1/memory.max", f"{128 * MIB}\n")
    assert read_limit(tmp_path / "cg", own) == 96 * MIB


def test_in_a_container_s_own_view_the_root_is_the_group(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    write(tmp_path / "cg/memory.max", f"{64 * MIB}\n")
    assert read_limit(tmp_path / "cg", own) == 64 * MIB


def test_version_1_is_read_and_its_huge_number_is_no_limit(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("9:memory:/docker/c1\n8:cpu,cpuacct:/docker/c1\n")
    write(tmp_path / "cg/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert read_limit(tmp_path / "cg", own) is None
    write(tmp_path / "cg/memory/docker/c1/memory.limit_in_bytes", f"{200 * MIB}\n")
    assert read_limit(tmp_path / "cg", own) == 200 * MIB


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert read_limit(tmp_path / "cg", tmp_path / "own") is None
    assert check_limit(None, 100_000, ["console"]).outcome is Outcome.OK


def test_the_need_grows_with_series_and_with_sinks() -> None:
    assert estimate_need(100_000, ["console"]) > 139 * MIB
    assert estimate_need(100_000, ["console"], 1_900) > 213 * MIB
    assert estimate_need(100_000, ["prometheus"]) > 212 * MIB
    assert estimate_need(100_000, ["cloudwatch"]) > 175 * MIB
    assert estimate_need(0, ["cloudwatch", "cloudwatch"]) == estimate_need(0, ["cloudwatch"])


def test_a_limit_below_the_need_says_how_many_series_fit() -> None:
    finding = check_limit(100 * MIB, 100_000, ["console"])
    assert finding.outcome is Outcome.WARNING
    fitting = int(finding.advice.rpartition(" ")[2].replace(",", ""))
    assert estimate_need(fitting, ["console"]) <= 100 * MIB < estimate_need(fitting + 1_000, ["console"])
    assert check_limit(100 * MIB, fitting, ["console"]).outcome is Outcome.OK


@pytest.mark.parametrize("sinks", [["console"], ["cloudwatch", "datadog"]])
def test_a_limit_below_the_sinks_alone_is_a_failure(sinks: list[str]) -> None:
    assert check_limit(estimate_need(0, sinks) - 1, 1, sinks).outcome is Outcome.FAILURE
