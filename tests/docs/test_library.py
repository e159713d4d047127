"""The example in docs/library.md runs, and prints what the page says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    fences = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [language for language, _ in fences] == ["python", "text"]
    (_, example), (_, expected) = fences
    exec(compile(example, str(PAGE), "exec"), {"__name__": "example"})  # noqa: S102 - the page is ours
    assert capsys.readouterr().out == expected
