"""docs/check.py finds what it promises to find, and nothing in a sound tree."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs import check

__all__: list[str] = []

SOUND_DOCUMENT = """\
# A sound document

See [the guide](docs/guide.md#two-words), [itself](#a-sound-document), [a line](Makefile#L1) and
[elsewhere](https://example.org/nothing#here). Run `make test`, read `docs/guide.md`.

A [reference][guide] and `[code](no-link.md)`.

[guide]: docs/guide.md

```python
value = await answer()
```

```toml
interval_s = 60
```

```sh
$ PYTHON=python3 make test PYTEST_ARGS=-x  # not make nothing
make -C elsewhere nothing
```
"""
MODULE = '"""A module."""\n\n__all__ = ["name"]\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository without a problem."""
    files = {
        "README.md": SOUND_DOCUMENT,
        "docs/guide.md": "# Guide\n\n## Two `words`\n\n## Two words\n\nSetext\n------\n",
        "Makefile": "NAME := value\n\n.PHONY: test\n\ntest: ## Run the tests\n\ttrue\n",
        "protocol/src/a/__init__.py": MODULE,
        "client/src/b/__init__.py": MODULE,
        "daemon/src/c/__init__.py": MODULE,
        "daemon/src/c/__main__.py": '"""The command."""\n',
        ".venv/lib/README.md": "[broken](nowhere.md)\n",
    }
    for project in check.PROJECTS:
        files[f"{project}/pyproject.toml"] = '[project]\nname = "x"\nversion = "1.2.3"\n'
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def report(tree: Path) -> list[str]:
    """What the check says about the tree."""
    return [f"{p.path.relative_to(tree)}:{p.line}: {p.message}" for p in sorted(check.check_tree(tree))]


def test_a_sound_tree_has_no_problem(tree: Path) -> None:
    assert report(tree) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("see\n[x](gone.md)\n", "2: the link gone.md leads to no file"),
        ("![x](gone.png)\n", "1: the link gone.png leads to no file"),
        ("[x](/docs/gone.md)\n", "1: the link /docs/gone.md leads to no file"),
        ('[x](docs/guide.md#three "title")\n', "1: the link docs/guide.md#three leads to no anchor"),
        ("[x](docs/guide.md#two-words-2)\n", "1: the link docs/guide.md#two-words-2 leads to no anchor"),
        ("[x](Makefile#L100)\n", "1: the link Makefile#L100 leads to no anchor"),
        ("# Here\n\n[x](#there)\n", "3: the link #there leads to no anchor"),
        ("[x](../../etc)\n", "1: the link ../../etc leaves the repository"),
        ("[x]()\n", "1: the link is empty"),
        ("[x][y]\n", "1: the reference [y] is not defined"),
        ("[x][y]\n\n[y]: gone.md\n", "3: the link gone.md leads to no file"),
        ('<a href="gone.md">x</a>\n', "1: the link gone.md leads to no file"),
        ("```text\nnever closed\n", "1: the fence is never closed"),
        ("Run `make nothing` now.\n", "1: the Makefile has no target 'nothing'"),
        ("```sh\ncd x && make test nothing\n```\n", "2: the Makefile has no target 'nothing'"),
        ("Read `docs/gone.md`.\n", "1: there is no docs/gone.md"),
    ],
)
def test_a_broken_document_is_named_with_its_line(tree: Path, text: str, problem: str) -> None:
    (tree / "broken.md").write_text(text, encoding="utf-8")
    assert report(tree) == [f"broken.md:{problem}"]


@pytest.mark.parametrize("anchor", ["two-words", "two-words-1", "setext", "guide"])
def test_a_heading_has_the_anchor_that_github_gives_it(tree: Path, anchor: str) -> None:
    (tree / "more.md").write_text(f"[x](docs/guide.md#{anchor})\n", encoding="utf-8")
    assert report(tree) == []


@pytest.mark.parametrize(
    ("fence", "line", "problem"),
    [
        ("```python\nx = 1\ndef f(:\n```\n", 3, "the Python fence does not compile"),
        ("- item\n\n  ~~~py\n  x = 1\n    y = 2\n  ~~~\n", 5, "the Python fence does not compile"),
        ("```toml\nx =\n```\n", 2, "the TOML fence does not parse"),
    ],
)
def test_a_broken_fence_is_named_with_its_line(tree: Path, fence: str, line: int, problem: str) -> None:
    (tree / "broken.md").write_text(fence, encoding="utf-8")
    (found,) = report(tree)
    assert found.startswith(f"broken.md:{line}: {problem}")


def test_the_changelog_may_name_a_file_that_has_gone(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text("Removed `docs/gone.md`.\n", encoding="utf-8")
    assert report(tree) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("__all__ = []\n", ["1: the module does not begin with a docstring"]),
        ('"""A module."""\n', ["1: the module does not define __all__"]),
        ('"""A module."""\n\n__all__: list[str]\n', ["1: the module does not define __all__"]),
        ('"""A module."""\n\ndef f(:\n', ["3: the module does not parse: invalid syntax"]),
    ],
)
def test_a_module_without_docstring_or_names_is_found(tree: Path, text: str, problems: list[str]) -> None:
    (tree / "client/src/b/room.py").write_text(text, encoding="utf-8")
    assert report(tree) == [f"client/src/b/room.py:{problem}" for problem in problems]


def test_an_empty_source_tree_is_a_problem(tree: Path) -> None:
    (tree / "client/src/b/__init__.py").unlink()
    assert report(tree) == ["client/src:1: there is no module to check"]


def test_a_version_that_differs_is_found(tree: Path) -> None:
    (tree / "daemon/pyproject.toml").write_text('[project]\nversion = "1.2.4"\n', encoding="utf-8")
    assert report(tree) == ["daemon/pyproject.toml:2: the version is '1.2.4', that of the root '1.2.3'"]


def test_a_pin_on_another_version_is_found(tree: Path) -> None:
    text = '[project]\nversion = "1.2.3"\ndependencies = ["aiokpl-metrics-protocol==1.2.2"]\n'
    (tree / "client/pyproject.toml").write_text(text, encoding="utf-8")
    assert report(tree) == [
        "client/pyproject.toml:3: 'aiokpl-metrics-protocol==1.2.2' must name '1.2.3'",
    ]


def test_the_command_prints_problems_and_fails(tree: Path) -> None:
    command = [sys.executable, check.__file__, str(tree)]
    sound = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (sound.returncode, sound.stdout, sound.stderr) == (0, "", "")
    (tree / "broken.md").write_text("[x](gone.md)\n", encoding="utf-8")
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (broken.returncode, broken.stderr) == (1, "")
    assert broken.stdout == "broken.md:1: the link gone.md leads to no file\n"
