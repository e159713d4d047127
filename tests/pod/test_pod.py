"""A pod of namespaces keeps its containers as apart, and as poor, as a container runtime does."""

import sys
from pathlib import Path

import msgspec

from tests.deploy.kustomize import build
from tests.pod.life import open_life
from tests.pod.pod import DAEMON_UID, GROUP, RESULTS, RUN, SERVICE_UID, open_pod
from tests.support.child import ROOT
from tests.support.halting import halt_import

LOOK = f"""
import json, os, socket

def can_write(path):
    try:
        with open(path, "w"):
            return True
    except OSError as error:
        return error.strerror

print(json.dumps({{
    "pid": os.getpid(),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "network": [name for _, name in socket.if_nameindex()],
    "run": sorted(os.listdir("/run")),
    "results": can_write("{RESULTS}/file"),
    "volume": can_write("{RUN}/file"),
    "root": can_write("{ROOT}/file"),
    "group": os.stat("{RUN}").st_gid,
    "no_new_privileges": [line.split()[1] for line in open("/proc/self/status") if "NoNewPrivs" in line],
}}))
"""


def test_a_container_has_its_volumes_its_user_and_nothing_else() -> None:
    with open_pod() as pod:
        volumes = {RUN: pod.run, RESULTS: pod.results}
        command = [sys.executable, "-c", LOOK]
        told = []
        for uid in (DAEMON_UID, SERVICE_UID):
            container = pod.start("look", uid, command, volumes, {}, None)
            assert container.wait() == 0, container.stderr
            told.append(msgspec.json.decode(container.stdout))
        daemon, service = told
        for each, uid in ((daemon, DAEMON_UID), (service, SERVICE_UID)):
            assert (each["pid"], each["processes"]) == (1, ["1"])
            assert each["ids"] == [uid, uid, [GROUP]]
            assert each["network"] == ["lo"]
            # mount(8) notes what it did.
            assert [name for name in each["run"] if name != "mount"] == ["aiokpl-metricsd", "results"]
            assert each["root"] == "Read-only file system"
            assert each["group"] == GROUP
            assert each["no_new_privileges"] == ["1"]
        assert daemon["volume"] is True
        # The service's mount is read-only: to connect to a socket needs no more.
        assert service["volume"] == "Read-only file system"
        # What one has written is the other's group's, but not the other's.
        assert service["results"] == "Permission denied"
        assert (pod.results.seen / "file").stat().st_gid == GROUP


def test_what_is_in_memory_is_gone_with_the_pod_and_was_never_seen_outside() -> None:
    with open_pod() as pod:
        (pod.run.seen / "file").touch()
        assert not (pod.run.path / "file").exists()
        (pod.state.seen / "file").touch()
        assert (pod.state.path / "file").exists()
    assert not pod.run.seen.exists()


def test_nothing_that_runs_outlives_its_pod() -> None:
    with open_life() as life:
        life.begin()
        running = [life.daemon.pid, life.service.pid]
        assert all(Path(f"/proc/{pid}").exists() for pid in running)
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_the_manifests_startup_probe_lets_the_service_start_when_the_socket_is_there_and_not_before() -> None:
    (deployment,) = [each for each in build(ROOT / "deploy/kubernetes/base") if each["kind"] == "Deployment"]
    (sidecar,) = deployment["spec"]["template"]["spec"]["initContainers"]
    interpreter, *arguments = sidecar["startupProbe"]["exec"]["command"]
    assert interpreter == "python3"
    with open_life() as life:
        life.start_daemon(environ=halt_import("aiokpl_metricsd.listener", RESULTS / "marker"))
        marker = life.pod.results.seen / "marker"
        life.wait("the import", marker.exists)

        def probe() -> int:
            return life.pod.probe(life.daemon, DAEMON_UID, [sys.executable, *arguments])

        assert probe() != 0
        marker.unlink()
        life.wait_until_accepting()
        assert probe() == 0
        life.kill_daemon()
