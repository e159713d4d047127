"""Documents and sources -> problems. What a document promises must be there; nothing is ever rewritten.

Checked are the relative links of every Markdown file (file and anchor), its Python and TOML fences, the
``make`` targets and the files it names, the version that four projects share, and that every module
begins with a docstring and defines ``__all__``. Only the standard library is used.

    python docs/check.py [ROOT]

prints one line for each problem, as ``file:line: message``, and ends with 1 if there was any.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["Problem", "check_document", "check_module", "check_tree", "check_versions", "main"]

SOURCE_TREES = ("protocol/src", "client/src", "daemon/src")
PROJECTS = (".", "protocol", "client", "daemon")
SHARED_DISTRIBUTION = "aiokpl-metrics-protocol"
# The changelog tells of files that have gone.
HISTORY = "CHANGELOG.md"
SHELL_FENCES = frozenset({"", "bash", "console", "sh", "shell", "text"})
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "venv"})

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?P<text>.+?)(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(\s*<?(?P<target>[^)\s>]*)>?(?:\s+[\"'][^)]*[\"'])?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[(?P<label>[^\]^][^\]]*)\]:\s*<?(?P<target>[^\s>]+)")
REFERENCE = re.compile(r"\]\[(?P<label>[^\]]+)\]")
HTML_LINK = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"'](?P<target>[^\"']*)[\"']")
HTML_ANCHOR = re.compile(r"<\w+\b[^>]*?\b(?:id|name)=[\"'](?P<anchor>[^\"']+)[\"']")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(?P<title>.*?)(?:\s+#+)?\s*$")
UNDERLINE = re.compile(r"^ {0,3}(?:=+|-{2,})\s*$")
SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)
LINE_ANCHOR = re.compile(r"^L(?P<first>\d+)(?:-L(?P<last>\d+))?$")
MAKE = re.compile(r"(?:^|&&|;|\|)\s*(?:\$\s+)?(?:\w+=\S*\s+)*make\s+(?P<words>[^#;&|]+)")
TARGET = re.compile(r"^[a-z][a-z0-9_-]*$")
RULE = re.compile(r"^(?P<targets>[^\s#:=][^:=#]*):(?!=)")
NAMED_FILE = re.compile(r"^(?:protocol|client|daemon|tests|bench|deploy|docs)/[\w./-]*$")


class Problem(NamedTuple):
    """What is wrong, and where."""

    path: Path
    line: int
    message: str


class Fence(NamedTuple):
    """A fenced block: its language, the line of its first line of text, and the text."""

    language: str
    line: int
    text: str


class Document(NamedTuple):
    """A Markdown file, its fences apart from its prose; the prose keeps its line numbers."""

    path: Path
    prose: list[str]
    fences: list[Fence]
    unclosed: int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the tree under the root named, or the one this file is in."""
    given = sys.argv[1:] if arguments is None else arguments
    root = (Path(given[0]) if given else Path(__file__).parent.parent).resolve()
    problems = sorted(check_tree(root))
    for problem in problems:
        print(f"{problem.path.relative_to(root)}:{problem.line}: {problem.message}")
    return 1 if problems else 0


def check_tree(root: Path) -> Iterator[Problem]:
    """Check every document, every module and the versions under root."""
    documents = list(find_files(root, ".md"))
    if not documents:
        yield Problem(root / "README.md", 1, "there is no document to check")
    targets = read_make_targets(root / "Makefile")
    for path in documents:
        yield from check_document(path, root, targets)
    for tree in SOURCE_TREES:
        modules = list(find_files(root / tree, ".py"))
        if not modules:
            yield Problem(root / tree, 1, "there is no module to check")
        for path in modules:
            yield from check_module(path)
    yield from check_versions(root)


def find_files(directory: Path, suffix: str) -> Iterator[Path]:
    """Find files by suffix, in order, leaving out hidden and generated directories."""
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or path.name in SKIPPED_DIRECTORIES:
            continue
        if path.is_dir():
            yield from find_files(path, suffix)
        elif path.suffix == suffix:
            yield path


# ---- documents


def check_document(path: Path, root: Path, targets: frozenset[str]) -> Iterator[Problem]:
    """Check one Markdown file against the tree it belongs to and the targets of its Makefile."""
    document = read_document(path)
    if document.unclosed is not None:
        yield Problem(path, document.unclosed, "the fence is never closed")
    for fence in document.fences:
        yield from check_fence(path, fence)
    yield from check_links(document, root)
    for line, text in iterate_commands(document):
        for target in parse_make_targets(text):
            if target not in targets:
                yield Problem(path, line, f"the Makefile has no target {target!r}")
    if path.name != HISTORY:
        for line, text in iterate_code_spans(document):
            if NAMED_FILE.match(text) and not (root / text).exists():
                yield Problem(path, line, f"there is no {text}")


@cache
def read_document(path: Path) -> Document:
    """Read a Markdown file; fenced lines become empty lines of its prose."""
    prose: list[str] = []
    fences: list[Fence] = []
    opened: re.Match[str] | None = None
    start, block = 0, list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = FENCE.match(line)
        if opened is None:
            if match is None:
                prose.append(line)
                continue
            opened, start, block = match, number, []
        elif match and match["mark"].startswith(opened["mark"]) and line.strip() == match["mark"]:
            fences.append(Fence(opened["language"].lower(), start + 1, "\n".join(block) + "\n"))
            opened = None
        else:
            block.append(line.removeprefix(opened["indent"]))
        prose.append("")
    return Document(path, prose, fences, None if opened is None else start)


def check_fence(path: Path, fence: Fence) -> Iterator[Problem]:
    """Compile a Python fence, parse a TOML fence; any other language passes."""
    if fence.language in {"py", "python"}:
        try:
            compile(fence.text, str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            offset = getattr(error, "lineno", None) or 1
            yield Problem(path, fence.line + offset - 1, f"the Python fence does not compile: {error}")
    elif fence.language == "toml":
        try:
            tomllib.loads(fence.text)
        except tomllib.TOMLDecodeError as error:
            yield Problem(path, fence.line, f"the TOML fence does not parse: {error}")


def check_links(document: Document, root: Path) -> Iterator[Problem]:
    """Follow every relative link, and look up the definition of every reference."""
    labels = {match["label"].lower() for line in document.prose if (match := DEFINITION.match(line))}
    for number, line in enumerate(document.prose, start=1):
        text = CODE_SPAN.sub("", line)
        for pattern in (LINK, HTML_LINK, DEFINITION):
            for match in pattern.finditer(text):
                message = explain_broken_link(document.path, match["target"], root)
                if message:
                    yield Problem(document.path, number, message)
        for match in REFERENCE.finditer(text):
            if match["label"].lower() not in labels:
                yield Problem(document.path, number, f"the reference [{match['label']}] is not defined")


def explain_broken_link(source: Path, link: str, root: Path) -> str | None:
    """Say what is wrong with a link, or None where it resolves or leads out of the repository."""
    if SCHEME.match(link):
        return None
    if not link:
        return "the link is empty"
    name, _, anchor = unquote(link).partition("#")
    base = root if name.startswith("/") else source.parent
    path = (base / name.lstrip("/")).resolve() if name else source
    if not path.is_relative_to(root.resolve()):
        return f"the link {link} leaves the repository"
    if not path.exists():
        return f"the link {link} leads to no file"
    if anchor and not has_anchor(path, anchor):
        return f"the link {link} leads to no anchor"
    return None


def has_anchor(path: Path, anchor: str) -> bool:
    """Tell whether a document has this heading or id, or any other file these lines."""
    if path.suffix == ".md":
        return anchor in read_anchors(path)
    lines = LINE_ANCHOR.match(anchor)
    if lines is None or not path.is_file():
        return False
    return 1 <= int(lines["first"]) <= len(path.read_text(encoding="utf-8").splitlines())


@cache
def read_anchors(path: Path) -> frozenset[str]:
    """Read the anchors of a document: GitHub's for its headings, and the ids set by hand."""
    anchors: set[str] = set()
    seen: dict[str, int] = {}
    previous = ""
    for line in read_document(path).prose:
        anchors.update(match["anchor"] for match in HTML_ANCHOR.finditer(line))
        heading = HEADING.match(line)
        title = heading["title"] if heading else previous.strip() if UNDERLINE.match(line) else ""
        if title:
            slug = build_slug(title)
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            anchors.add(f"{slug}-{count}" if count else slug)
        previous = "" if heading else line
    return frozenset(anchors)


def build_slug(title: str) -> str:
    """Build the anchor that GitHub gives to a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def iterate_code_spans(document: Document) -> Iterator[tuple[int, str]]:
    """Give the text of every code span with its line."""
    for number, line in enumerate(document.prose, start=1):
        for match in CODE_SPAN.finditer(line):
            yield number, match["text"].strip()


def iterate_commands(document: Document) -> Iterator[tuple[int, str]]:
    """Give what may be a command: each code span, and each line of a shell fence."""
    yield from iterate_code_spans(document)
    for fence in document.fences:
        if fence.language in SHELL_FENCES:
            yield from enumerate(fence.text.splitlines(), start=fence.line)


# ---- the Makefile


@cache
def read_make_targets(makefile: Path) -> frozenset[str]:
    """Read the targets that a Makefile has a rule for; none where there is no Makefile."""
    if not makefile.is_file():
        return frozenset()
    rules = map(RULE.match, makefile.read_text(encoding="utf-8").splitlines())
    names = {name for rule in rules if rule for name in rule["targets"].split()}
    return frozenset(name for name in names if not name.startswith("."))


def parse_make_targets(command: str) -> Iterator[str]:
    """Find the targets of every ``make`` in a command; one with another Makefile is passed over."""
    for match in MAKE.finditer(command.strip()):
        words = match["words"].split()
        if not any(word.startswith(("-C", "-f")) for word in words):
            yield from (word for word in words if TARGET.match(word))


# ---- modules and versions


def check_module(path: Path) -> Iterator[Problem]:
    """Check that a module begins with a docstring and, unless it is ``__main__``, defines ``__all__``."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        yield Problem(path, error.lineno or 1, f"the module does not parse: {error.msg}")
        return
    if not ast.get_docstring(tree):
        yield Problem(path, 1, "the module does not begin with a docstring")
    if path.stem != "__main__" and not any(map(assigns_all, tree.body)):
        yield Problem(path, 1, "the module does not define __all__")


def assigns_all(statement: ast.stmt) -> bool:
    """Tell whether a statement gives ``__all__`` a value."""
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    else:
        return False
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def check_versions(root: Path) -> Iterator[Problem]:
    """Check that the projects share one version, and that they depend on just that one."""
    expected: str | None = None
    for project in PROJECTS:
        path = root / project / "pyproject.toml"
        if not path.is_file():
            yield Problem(path, 1, "there is no such project")
            continue
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text).get("project", {})
        version = table.get("version")
        expected = expected or version
        if version is None or version != expected:
            line = find_line(text, "version")
            yield Problem(path, line, f"the version is {version!r}, that of the root {expected!r}")
        for dependency in table.get("dependencies", []):
            name, _, pinned = dependency.partition("==")
            if name.strip() == SHARED_DISTRIBUTION and pinned.strip() != expected:
                yield Problem(path, find_line(text, dependency), f"{dependency!r} must name {expected!r}")


def find_line(text: str, part: str) -> int:
    """Find the number of the first line that contains the part, or 1."""
    return next((number for number, line in enumerate(text.splitlines(), start=1) if part in line), 1)


if __name__ == "__main__":
    sys.exit(main())
