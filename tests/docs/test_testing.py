"""Each example of docs/testing.md is a test that passes, or fails as the page says; its table is complete."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

from aiokpl_metrics_client.testing import Metricsd

# What is installed here beside pytest, and its files, are not the page's business.
OPTIONS = ("--rootdir", ".", "-p", "no:cacheprovider", "-p", "no:asyncio")

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_examples_pass_and_the_one_with_a_report_fails_with_it(tmp_path: Path) -> None:
    fences: list[tuple[str, str]] = re.findall(
        r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    reports: dict[str, str] = {}
    for number, (language, text) in enumerate(fences):
        if language == "python":
            (tmp_path / f"test_{number}.py").write_text(text)
        else:
            assert language == "text"
            reports[f"test_{number - 1}.py"] = text
    examples = {path.name for path in tmp_path.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-W", "error", *OPTIONS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    outcomes = set(re.findall(r"^(PASSED|FAILED|ERROR) (\w+\.py)", done.stdout, flags=re.MULTILINE))
    expected = {("FAILED" if name in reports else "PASSED", name) for name in examples}
    assert outcomes == expected, done.stdout + done.stderr
    assert len(reports) == 1
    for report in reports.values():
        for line in report.splitlines():
            assert line in done.stdout


def test_the_table_names_every_question_and_every_other_method_is_described() -> None:
    text = PAGE.read_text(encoding="utf-8")
    methods = {name for name, _ in inspect.getmembers(Metricsd, inspect.isfunction) if name[0] != "_"}
    table = text[text.index("| call |") :].split("\n\n")[0]
    asked = set(re.findall(r"`(\w+)\(", table))
    assert asked <= methods
    # The context manager closes it.
    assert methods - asked == {"build_client", "capture", "close"}
    assert "metricsd.capture()" in text
    assert "metricsd.build_client(" in text
