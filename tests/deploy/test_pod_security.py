"""The checker of pods finds each thing that the restricted standard forbids, and each word of no enum."""

from collections.abc import Callable

import pytest

from tests.deploy.kustomize import Manifest, build
from tests.deploy.pod_security import find_problems
from tests.support.child import ROOT


def spoil_restart(pod: Manifest) -> None:
    pod["initContainers"][0]["restartPolicy"] = "Sometimes"


def spoil_user(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["runAsUser"] = 0


def spoil_capabilities(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["capabilities"] = {"drop": ["NET_RAW"]}


def spoil_added(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["capabilities"]["add"] = ["SYS_PTRACE"]


def spoil_escalation(pod: Manifest) -> None:
    del pod["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"]


def spoil_seccomp(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["seccompProfile"] = {"type": "Unconfined"}


def spoil_root(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["runAsNonRoot"] = False


def spoil_file_system(pod: Manifest) -> None:
    pod["initContainers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def spoil_volume(pod: Manifest) -> None:
    pod["volumes"].append({"name": "host", "hostPath": {"path": "/run"}})


def spoil_network(pod: Manifest) -> None:
    pod["hostNetwork"] = True


def spoil_port(pod: Manifest) -> None:
    pod["containers"][0]["ports"] = [{"containerPort": 1, "hostPort": 1}]


def spoil_probe(pod: Manifest) -> None:
    pod["containers"][0]["livenessProbe"] = {"tcpSocket": {"host": "127.0.0.1", "port": 1}}


def spoil_medium(pod: Manifest) -> None:
    pod["volumes"][0]["emptyDir"]["medium"] = "RAM"


def spoil_pull(pod: Manifest) -> None:
    pod["containers"][0]["imagePullPolicy"] = "Sometimes"


def spoil_pod_restart(pod: Manifest) -> None:
    pod["restartPolicy"] = "Always"


def spoil_init_user(pod: Manifest) -> None:
    del pod["initContainers"][0]["securityContext"]["runAsUser"]


def spoil_app_armor(pod: Manifest) -> None:
    pod["securityContext"]["appArmorProfile"] = {"type": "Unconfined"}


def spoil_selinux(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["seLinuxOptions"] = {"type": "spc_t"}


def spoil_windows(pod: Manifest) -> None:
    pod["securityContext"]["windowsOptions"] = {"hostProcess": True}


def spoil_sysctl(pod: Manifest) -> None:
    pod["securityContext"]["sysctls"] = [{"name": "net.unix.max_dgram_qlen", "value": "512"}]


def spoil_proc(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["procMount"] = "Unmasked"


def spoil_change_policy(pod: Manifest) -> None:
    pod["securityContext"]["fsGroupChangePolicy"] = "Never"


def spoil_hook(pod: Manifest) -> None:
    hook = {"httpGet": {"host": "127.0.0.1", "port": 1}}
    pod["initContainers"][0]["lifecycle"] = {"preStop": hook}


def spoil_ephemeral(pod: Manifest) -> None:
    pod["ephemeralContainers"] = [{"name": "debugger", "image": "debugger:1.0.0"}]


def spoil_privileged(pod: Manifest) -> None:
    pod["containers"][0]["securityContext"]["privileged"] = True


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_added,
        spoil_app_armor,
        spoil_capabilities,
        spoil_change_policy,
        spoil_ephemeral,
        spoil_escalation,
        spoil_file_system,
        spoil_hook,
        spoil_init_user,
        spoil_medium,
        spoil_network,
        spoil_pod_restart,
        spoil_port,
        spoil_privileged,
        spoil_probe,
        spoil_proc,
        spoil_pull,
        spoil_restart,
        spoil_root,
        spoil_seccomp,
        spoil_selinux,
        spoil_sysctl,
        spoil_user,
        spoil_volume,
        spoil_windows,
    ],
)
def test_the_checker_finds_each_thing_that_is_not_restricted_or_no_value(
    spoil: Callable[[Manifest], None],
) -> None:
    (job,) = [each for each in build(ROOT / "deploy" / "kubernetes" / "base") if each["kind"] == "Job"]
    assert find_problems(job) == []
    spoil(job["spec"]["template"]["spec"])
    assert find_problems(job)


@pytest.mark.parametrize("kind", ["CronJob", "Pod", "StatefulSet"])
def test_a_kind_whose_pod_nobody_looks_for_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        find_problems({"kind": kind, "spec": {}})
