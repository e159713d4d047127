"""`docs/security.md` names tests; each of them is there, once. Whether it runs, the suite says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"


def read_threats() -> list[list[str]]:
    """Return the rows of the table of threats: threat, what is done, what shows it."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("\n## Threats, and what shows that they are met\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert [word.strip() for word in rows[0]] == ["threat", "what the daemon does", "shown by"]
    return rows[1:]


def list_tests() -> list[str]:
    """Return the names of all test functions."""
    names: list[str] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names += [
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        ]
    return names


def test_each_threat_names_tests_and_each_of_them_is_there_once() -> None:
    threats = read_threats()
    assert len(threats) > 20
    known = list_tests()
    for threat, _, shown in threats:
        named = re.findall(r"`(\w+)`", shown)
        assert named, f"nothing shows: {threat}"
        assert {name: known.count(name) for name in named} == dict.fromkeys(named, 1)


def test_what_is_not_defended_is_said() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("\n## What is not defended\n")[2]
    assert len(re.findall(r"^\* ", text, re.MULTILINE)) >= 5
