"""The compose file and the files that it names fit together, and with the pod's."""

import re
from pathlib import Path
from typing import Any

from aiokpl_metrics_protocol import socket_candidates
from aiokpl_metricsd.config import load
from aiokpl_metricsd.sinks.loading import EXTRAS
from tests.deploy.composing import COMPOSE, read_services
from tests.deploy.kustomize import build

ROOT = Path(__file__).parents[2]
DOCKERFILE = COMPOSE / "producer.Dockerfile"


def list_mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return the sources of a service's volumes, by where they are mounted."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}


def test_every_service_has_as_little_as_a_pods_container() -> None:
    for service in read_services().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "cap_add" not in service
        assert not service["user"].startswith("0:")


def test_the_configuration_is_one_and_its_places_are_mounted() -> None:
    configuration = load(str(COMPOSE / "sinks.toml"), {})
    service = read_services()["metricsd"]
    mounts = list_mounts(service)
    assert configuration.ingest.socket is not None
    assert configuration.ingest.socket == socket_candidates({})[0]
    assert configuration.state_dir is not None
    assert mounts[str(Path(configuration.ingest.socket).parent)] == "run"
    assert mounts[str(Path(configuration.state_dir).parent)] == "state"
    assert (COMPOSE / mounts["/etc/aiokpl-metricsd/sinks.toml"]).is_file()
    assert service["command"] == ["--config", "/etc/aiokpl-metricsd/sinks.toml"]
    assert float(service["stop_grace_period"].removesuffix("s")) > configuration.shutdown_timeout_s + 2
    assert configuration.http.listen is not None
    # Published on the loopback alone.
    assert service["ports"] == [f"127.0.0.1:9464:{configuration.http.listen.rpartition(':')[2]}"]


def test_the_producer_is_in_the_sockets_group_and_finds_it_without_a_setting() -> None:
    producer, daemon = read_services()["producer"], read_services()["metricsd"]
    assert producer["group_add"] == [daemon["user"].partition(":")[2]]
    assert list_mounts(producer) == {str(Path(socket_candidates({})[0]).parent): "run"}
    assert producer["user"] != daemon["user"]


def test_the_health_check_is_the_startup_probe() -> None:
    (deployment,) = [each for each in build(ROOT / "deploy/kubernetes/base") if each["kind"] == "Deployment"]
    (sidecar,) = deployment["spec"]["template"]["spec"]["initContainers"]
    check = read_services()["metricsd"]["healthcheck"]["test"]
    assert check == ["CMD", *sidecar["startupProbe"]["exec"]["command"]]


def test_the_daemons_image_is_made_with_the_extras_that_its_sinks_need() -> None:
    build_options = read_services()["metricsd"]["build"]
    assert (COMPOSE / build_options["context"] / build_options["dockerfile"]).resolve() == ROOT / "Dockerfile"
    configuration = load(str(COMPOSE / "sinks.toml"), {})
    needed = {EXTRAS[sink.type] for sink in configuration.sinks.values() if sink.type in EXTRAS}
    assert set(build_options["args"]["EXTRAS"].split(",")) == needed
    assert build_options["args"]["BASE_IMAGE"] == read_services()["producer"]["build"]["args"]["BASE_IMAGE"]


def test_the_producers_image_is_made_from_files_that_exist_on_a_base_that_is_an_argument() -> None:
    build_options = read_services()["producer"]["build"]
    assert (COMPOSE / build_options["context"]).resolve() == ROOT
    assert ROOT / build_options["dockerfile"] == DOCKERFILE
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert set(build_options["args"]) == set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) == {"BASE_IMAGE"}
    sources = re.findall(r"^COPY ([^-\s]\S*) ", text, re.MULTILINE)
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source


def test_no_image_names_a_registry() -> None:
    images = [service["image"] for service in read_services().values()]
    assert all(re.fullmatch(r"[a-z-]+:\$\{METRICSD_VERSION:-\d+\.\d+\.\d+\}", image) for image in images)
