"""From a sink's type and table to the sink: built-in and custom ones, and every way it can fail."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, ModuleType

import pytest
from msgspec import structs

from aiokpl_metricsd.configuring.interpolation import Interpolated
from aiokpl_metricsd.configuring.place import Place
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks import MetricsSink, NullSink, loading
from aiokpl_metricsd.sinks.loading import BUILTIN, SinkOptions, build_sink, load_factory
from tests.daemon.acme import AcmeSink, Sink

PLACE = Place("sinks.toml", ("sinks", "x"))
X = "sinks.toml: [sinks.x]"


def interpolated(text: str) -> Interpolated:
    return Interpolated(text, "the value of ${X}", is_whole=True)


def refuse_type(name: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_factory(name, PLACE)
    return str(caught.value)


def make_options(
    factory: Callable[..., object], secrets: tuple[str, ...] = (), **options: object
) -> SinkOptions:
    return SinkOptions(
        name="x",
        type="acme:Sink",
        factory=factory,
        interval_s=60,
        options=options,
        place=PLACE,
        secrets=secrets,
    )


def refuse_build(options: SinkOptions) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        build_sink(options)
    return caught.value


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("acme_sinks")
    monkeypatch.setitem(sys.modules, "acme_sinks", module)
    return module


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> None:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)

    return write


# ---- the type


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_built_in_type_is_there_and_is_a_sink(name: str) -> None:
    factory = load_factory(name)
    for method in ("export", "__aenter__", "__aexit__"):
        assert callable(getattr(factory, method))


def test_a_custom_type_is_an_import_string_with_dots_on_both_sides(module: ModuleType) -> None:
    vars(module)["Group"] = type("Group", (), {"make": AcmeSink})
    assert load_factory("acme_sinks:Group.make") is AcmeSink
    assert load_factory("aiokpl_metricsd.sinks.null:NullSink") is NullSink


def test_nothing_is_imported_until_it_is_named(write_module: Callable[[str, str], None]) -> None:
    write_module("acme_lazy", "def make(): ...\n")
    assert "acme_lazy" not in sys.modules
    load_factory("acme_lazy:make")
    assert sys.modules.pop("acme_lazy").__name__ == "acme_lazy"


def test_an_unknown_type_is_answered_with_the_built_in_ones_and_the_nearest() -> None:
    assert refuse_type("consol") == (
        f"{X} type: expected one of {', '.join(BUILTIN)}, "
        'or "package.module:ClassOrFactory", found "consol"; did you mean console?'
    )


@pytest.mark.parametrize(
    "name", [":", "a:", ":b", "a:b:c", "a b:c", ".a:b", "a..b:c", "a:b.", "../a:b", "a:b()"]
)
def test_a_malformed_import_string_is_refused(name: str) -> None:
    assert refuse_type(name) == (f'{X} type: expected "package.module:ClassOrFactory", found "{name}"')


def test_a_module_that_is_not_there_is_named() -> None:
    assert refuse_type("acme_nowhere:Sink") == (
        f'{X} type: "acme_nowhere:Sink": there is no module acme_nowhere'
    )


def test_a_package_that_is_not_there_is_named_rather_than_its_module() -> None:
    assert refuse_type("acme_nowhere.sinks.cw:Sink") == (
        f'{X} type: "acme_nowhere.sinks.cw:Sink": there is no module acme_nowhere'
    )


def test_a_module_of_a_package_that_is_not_there_is_named(write_module: Callable[[str, str], None]) -> None:
    write_module("acme_package.__init__", "")
    assert refuse_type("acme_package.sinks:Sink") == (
        f'{X} type: "acme_package.sinks:Sink": there is no module acme_package.sinks'
    )
    del sys.modules["acme_package"]


def test_an_attribute_that_is_not_there_is_named_with_the_nearest(module: ModuleType) -> None:
    vars(module)["AcmeSink"] = AcmeSink
    assert refuse_type("acme_sinks:AcmeSnik") == (
        f'{X} type: "acme_sinks:AcmeSnik": acme_sinks has no attribute AcmeSnik; did you mean AcmeSink?'
    )
    assert refuse_type("acme_sinks:AcmeSink.zzzz") == (
        f'{X} type: "acme_sinks:AcmeSink.zzzz": acme_sinks.AcmeSink has no attribute zzzz'
    )


def test_an_attribute_that_cannot_be_called_is_refused(module: ModuleType) -> None:
    vars(module)["VERSION"] = 5
    assert refuse_type("acme_sinks:VERSION") == (
        f'{X} type: "acme_sinks:VERSION": acme_sinks.VERSION cannot be called; expected a class or a function'
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import acme_missing_sdk\n", "ModuleNotFoundError: No module named 'acme_missing_sdk'"),
        (
            "from sys import acme_no\n",
            "ImportError: cannot import name 'acme_no' from 'sys' (unknown location)",
        ),
        ("raise RuntimeError('no\\nluck')\n", "RuntimeError: no luck"),
    ],
)
def test_a_module_that_fails_to_import_is_not_taken_for_a_missing_one(
    write_module: Callable[[str, str], None],
    source: str,
    expected: str,
) -> None:
    write_module("acme_broken", source)
    assert refuse_type("acme_broken:Sink") == (
        f'{X} type: "acme_broken:Sink": importing acme_broken failed: {expected}'
    )


def test_a_module_that_is_no_python_is_reported_on_one_line(write_module: Callable[[str, str], None]) -> None:
    write_module("acme_syntax", "def :\n")
    line = refuse_type("acme_syntax:Sink")
    assert "importing acme_syntax failed: SyntaxError: invalid syntax" in line
    assert "\n" not in line


def test_a_built_in_sink_whose_package_is_missing_says_which_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
    write_module: Callable[[str, str], None],
) -> None:
    write_module("acme_otel", "import acme_missing_sdk.metrics\n")
    monkeypatch.setattr(loading, "BUILTIN", MappingProxyType({"opentelemetry": "acme_otel:Sink"}))
    assert refuse_type("opentelemetry") == (
        f'{X} type: "opentelemetry" needs the package acme_missing_sdk; install aiokpl-metricsd[otel]'
    )


def test_a_type_out_of_a_variable_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_factory(interpolated("hunter2"), PLACE)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).endswith("found the value of ${X}")


# ---- the sink


def test_a_sink_is_built_from_its_options() -> None:
    sink = build_sink(make_options(AcmeSink, url="u", retries=7))
    assert isinstance(sink, AcmeSink)
    assert (sink.given["url"], sink.given["retries"]) == ("u", 7)
    assert isinstance(sink, MetricsSink)


def test_a_function_may_build_the_sink() -> None:
    assert isinstance(build_sink(make_options(lambda: NullSink())), NullSink)  # noqa: PLW0108


def test_a_constructor_s_refusal_is_one_line() -> None:
    def make(url: str) -> None:
        raise ValueError(f"no\nsuch {url}")

    assert str(refuse_build(make_options(make, url="u"))) == (
        f'{X}: building "acme:Sink" failed: ValueError: no such u'
    )


def test_a_constructor_s_own_configuration_error_keeps_its_words() -> None:
    def make() -> None:
        raise ConfigurationError("acme: no region")

    assert str(refuse_build(make_options(make))) == (f'{X}: building "acme:Sink" failed: acme: no region')


def test_a_constructor_that_misses_its_package_says_which_extra_to_install() -> None:
    def make() -> None:
        raise ModuleNotFoundError("No module named 'acme_sdk'", name="acme_sdk")

    options = structs.replace(make_options(make), type="cloudwatch")
    assert str(refuse_build(options)) == (
        f'{X} type: "cloudwatch" needs the package acme_sdk; install aiokpl-metricsd[cloudwatch]'
    )


@pytest.mark.parametrize("secret", ["hunter2", "hun'ter\\2"])
def test_a_secret_in_a_constructor_s_refusal_is_blotted_out(secret: str) -> None:
    def make(api_key: str) -> None:
        raise ValueError(f"refused {api_key} and {api_key!r}")

    error = refuse_build(make_options(make, secrets=(secret,), api_key=secret))
    assert str(error).count("***") == 2
    printed = "".join(traceback.format_exception(error))
    assert secret not in printed
    assert repr(secret)[1:-1] not in printed


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (object(), "object, which lacks export, __aenter__, __aexit__"),
        (None, "NoneType, which lacks export, __aenter__, __aexit__"),
        (type("Half", (), {"export": print})(), "Half, which lacks __aenter__, __aexit__"),
        (type("Odd", (Sink,), {"export": 5})(), "Odd, which lacks export"),
    ],
)
def test_what_is_no_sink_is_refused_with_what_it_lacks(made: object, missing: str) -> None:
    assert str(refuse_build(make_options(lambda: made))) == (f'{X}: "acme:Sink" made a {missing}')


def test_options_show_no_option_when_they_are_printed() -> None:
    options = make_options(AcmeSink, url="u", api_key="hunter2")
    assert repr(options) == "SinkOptions(name='x', type='acme:Sink')"
