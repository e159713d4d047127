"""The page, the example file and the code say the same of every key, and a page that is behind is named."""

import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import NODEFAULT, Meta, Struct, structs

from aiokpl_metricsd.config import CommonOptions, Configuration, MetricOptions, load
from aiokpl_metricsd.inspection import inspect_configuration
from aiokpl_metricsd.sinks.loading import BUILTIN, build_sink, load_factory
from docs import generate_configuration as generator

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "sinks.example.toml"

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "an example",
    "AWS_SESSION_TOKEN": "another",
    "DD_API_KEY": "0123456789abcdef",
    "DD_APP_KEY": "fedcba9876543210",
    "NODE_NAME": "node-1",
    "OTLP_API_KEY": "a third",
    "POD_NAME": "orders-1",
}


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOKPL_METRICSD_SOCKET", str(tmp_path / "metrics.sock"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DD_API_KEY"):
        monkeypatch.setenv(name, VARIABLES[name])


def write_example(directory: Path, *, whole: bool) -> str:
    """Write the example, with the commented keys as well or without, and return its path."""
    text = EXAMPLE.read_text()
    if whole:
        text = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    for place in ("/var/log", "/run/aiokpl-metricsd", "/var/lib"):
        text = text.replace(f'"{place}/', f'"{directory}/')
    path = directory / "sinks.toml"
    path.write_text(text)
    return str(path)


def list_keys(table: str) -> list[str]:
    """Return the keys that the example has in a table, commented or not."""
    parts = re.split(r"^\[(.+)\]$", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = dict(zip(["", *parts[1::2]], parts[::2], strict=True))[table]
    return re.findall(r"^#?(\w+) = ", text, flags=re.MULTILINE)


# ---- what is generated is what the code says


def test_the_page_and_the_example_are_as_the_code_is() -> None:
    for path, text in generator.generate(ROOT).items():
        assert (ROOT / path).read_text() == text, f"{path} is behind; run `make docs`"


def test_a_page_that_is_behind_is_named_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (generator.PAGE, generator.EXAMPLE):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text((ROOT / path).read_text().replace("`60`", "`61`"))
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    assert generator.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "docs/configuration.md: not what the configuration's structs say; run `make docs`"
    ]
    assert generator.main([]) == 0
    assert (tmp_path / generator.PAGE).read_text() == (ROOT / generator.PAGE).read_text()
    assert generator.main(["--check"]) == 0


def test_every_table_has_its_markers_in_the_page() -> None:
    tables = generator.list_tables()
    page = (ROOT / generator.PAGE).read_text()
    with pytest.raises(SystemExit, match=r"markers.*'limits'"):
        generator.fill_page(page.replace("<!-- begin limits -->", ""), tables)


class Sample(Struct, frozen=True):
    """A table.

    Attributes:
        wait_s: how long | to wait,
            at most.
        width: of it.
        depth: of it, too.

    Not: a key.
    """

    wait_s: Annotated[float, Meta(gt=0)]
    width: Annotated[int, Meta(ge=1, extra={"unit": "pages"})] | None = None
    depth: int = 1
    untold: bool = False


def test_a_description_spans_lines_and_ends_with_its_section() -> None:
    assert generator.read_descriptions(Sample, "Attributes") == {
        "wait_s": "How long | to wait, at most.",
        "width": "Of it.",
        "depth": "Of it, too.",
    }


def test_a_key_without_description_unit_or_example_is_an_error_and_no_gap() -> None:
    with pytest.raises(SystemExit, match=r"\[sample\] untold: the docstring says nothing"):
        generator.read_struct("sample", Sample)
    depth = generator.Key("depth", int, 1, "Of it.")
    with pytest.raises(SystemExit, match="depth: no unit"):
        generator.render_table(generator.Table("sample", (depth,)))
    lost = generator.Key("lost", str, None, "Where.")
    tables = [generator.Table("sinks", ()), generator.Table("top", (lost,))]
    with pytest.raises(SystemExit, match="lost: it has no default"):
        generator.render_example(tables)


def test_a_row_has_type_range_unit_default_and_meaning() -> None:
    width = generator.Key("width", Sample.__annotations__["width"], None, "Wide | narrow.")
    wait = generator.Key("wait_s", Sample.__annotations__["wait_s"], inspect.Parameter.empty, "How long.")
    size = generator.Key("size_bytes", int, 2 * 1024 * 1024, "How large.")
    names = generator.Key("names", tuple[str, ...], tuple("abcdefgh"), "Whose.")
    rows = generator.render_table(generator.Table("sample", (width, wait, size, names))).splitlines()[3:7]
    assert rows == [
        r"| `width` | whole number of at least 1 | pages | none | Wide \| narrow. |",
        "| `wait_s` | number greater than 0 | seconds | required | How long. |",
        "| `size_bytes` | whole number | bytes | `2097152`, 2 MiB | How large. |",
        '| `names` | array, each item a string |  | `["a", "b", "c", …, "h"]` | Whose. |',
    ]


# ---- the example is complete and true; none of this asks the generator


def test_the_example_has_every_key_of_every_struct() -> None:
    nested: dict[str, type[Struct]] = {"metrics.CheckoutLatency": MetricOptions}
    plain: list[str] = []
    for field in structs.fields(Configuration):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            nested[field.name] = field.type
        elif field.name not in {"dimensions", "metrics", "sinks"}:
            plain.append(field.name)
    assert list_keys("") == plain
    for table, struct in nested.items():
        assert list_keys(table) == list(struct.__struct_fields__)
    assert list_keys("dimensions")


@pytest.mark.parametrize("kind", BUILTIN)
def test_the_example_has_every_option_of_every_sink(kind: str) -> None:
    parameters = inspect.signature(load_factory(kind)).parameters
    # What no TOML can say.
    options = [name for name in parameters if name not in {"client_factory", "clock", "stream"}]
    common = list(CommonOptions.__struct_fields__) if kind == "console" else ["type"]
    assert list_keys(f"sinks.{kind}") == [*common, *options]


def test_what_is_not_commented_in_the_example_is_the_default(tmp_path: Path) -> None:
    given = load(write_example(tmp_path, whole=False), {})
    required = {("cloudwatch", "region"), ("jsonl", "path")}
    for field in structs.fields(Configuration):
        if field.name not in {"metrics", "sinks"}:
            default = field.default_factory() if field.default is NODEFAULT else field.default
            assert getattr(given, field.name) == default, field.name
    assert given.metrics == {"CheckoutLatency": MetricOptions()}
    assert set(given.sinks) == set(BUILTIN)
    (tmp_path / "least.toml").write_text('[sinks.console]\ntype = "console"\n')
    least = load(str(tmp_path / "least.toml"), {}).sinks["console"]
    shown = structs.replace(given.sinks["console"], options={}, place=least.place)
    assert shown == least
    for name, sink in given.sinks.items():
        parameters = inspect.signature(sink.factory).parameters
        for key, value in sink.options.items():
            if (name, key) not in required:
                default = parameters[key].default
                assert value == (list(default) if isinstance(value, list) else default), (name, key)


def test_check_accepts_the_example(tmp_path: Path) -> None:
    assert inspect_configuration(load(write_example(tmp_path, whole=False), VARIABLES)) == []


def test_the_example_can_be_used_with_every_key_of_it(tmp_path: Path) -> None:
    given = load(write_example(tmp_path, whole=True), VARIABLES)
    assert (given.state_dir, given.ingest.group) == (f"{tmp_path}/aiokpl-metricsd", "1000")
    built: dict[str, Any] = {name: build_sink(options) for name, options in given.sinks.items()}
    assert set(built) == set(BUILTIN)
