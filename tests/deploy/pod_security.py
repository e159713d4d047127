"""A pod -> what is against the restricted Pod Security Standard, and words that are no value of their enum.

The schemas of Kubernetes have neither: a container without a security context is valid, and so is
`restartPolicy: Sometimes`. The rules are those of kubernetes/pod-security-admission, `policy/check_*.go`
(read 2026-11), in their strictest form.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

Node: TypeAlias = Mapping[str, Any]

VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)

# Kubernetes API reference 1.33 (read 2026-11), for what our manifests use.
ENUMS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "medium": {"", "Memory", "HugePages", "HugePages-2Mi", "HugePages-1Gi"},
    "fsGroupChangePolicy": {"Always", "OnRootMismatch"},
    "terminationMessagePolicy": {"File", "FallbackToLogsOnError"},
    "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
    "scheme": {"HTTP", "HTTPS"},
    "completionMode": {"NonIndexed", "Indexed"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "mountPropagation": {"None", "HostToContainer", "Bidirectional"},
}

# What a restartPolicy may be depends on whose it is.
RESTART = {
    "Deployment": {"Always"},
    "Job": {"Never", "OnFailure"},
    "initContainer": {"Always"},
    "container": set[str](),
}

# So does a type.
TYPES = {
    "seccompProfile": {"RuntimeDefault", "Localhost"},
    "appArmorProfile": {"RuntimeDefault", "Localhost"},
    "strategy": {"RollingUpdate", "Recreate"},
}

WITH_TEMPLATE = frozenset({"Deployment", "Job"})
WITHOUT_POD = frozenset({"ConfigMap", "PodMonitor", "ServiceAccount"})

HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def find_problems(manifest: Node) -> list[str]:
    """Return what is wrong with a manifest.

    Raises:
        ValueError: it is of a kind that is not known here, and may have a pod where nobody looks.
    """
    kind = manifest["kind"]
    if kind in WITHOUT_POD:
        return []
    if kind not in WITH_TEMPLATE:
        raise ValueError(f"a manifest of an unknown kind: {kind}")
    return [*_check_pod(kind, manifest["spec"]["template"]["spec"]), *_check_enums(manifest, "")]


def _check_pod(kind: str, spec: Node) -> Iterator[str]:
    for key in HOST:
        if key in spec:
            yield f"{key} is set"
    restart = spec.get("restartPolicy", "Always")
    if restart not in RESTART[kind]:
        yield f"restartPolicy of the pod: {restart}"
    context = spec.get("securityContext", {})
    if "sysctls" in context:
        yield "sysctls are set"
    yield from _check_profiles(context)
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if len(kinds) != 1 or not kinds <= VOLUMES:
            yield f"volume {volume['name']}: {sorted(kinds)}"
    for key in CONTAINERS:
        for container in spec.get(key, ()):
            for problem in _check_container(container, context, is_initial=key == "initContainers"):
                yield f"{container['name']}: {problem}"


def _check_container(container: Node, pod_context: Node, *, is_initial: bool) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**pod_context, **own}
    capabilities = own.get("capabilities", {})
    restart = container.get("restartPolicy")
    user = both.get("runAsUser")
    # NET_BIND_SERVICE could be added; nothing of ours needs it.
    broken = {
        "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is not False,
        "privileged": own.get("privileged"),
        "capabilities are not all dropped": "ALL" not in capabilities.get("drop", ()),
        "capabilities are added": capabilities.get("add"),
        "runAsNonRoot is not true": both.get("runAsNonRoot") is not True,
        "runAsUser is no number above 0": not isinstance(user, int) or user == 0,
        "no seccompProfile": both.get("seccompProfile", {}).get("type") not in TYPES["seccompProfile"],
        "procMount": own.get("procMount", "Default") != "Default",
        "the root file system can be written to": own.get("readOnlyRootFilesystem") is not True,
        f"restartPolicy: {restart}": restart is not None
        and restart not in RESTART["initContainer" if is_initial else "container"],
        "hostPort": any(port.get("hostPort") for port in container.get("ports", ())),
    }
    yield from (problem for problem, is_there in broken.items() if is_there)
    yield from _check_profiles(own)
    for place in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
        if "host" in _list_keys(container.get(place, {})):
            yield f"{place} names a host"


def _check_profiles(context: Node) -> Iterator[str]:
    """Yield what is of another security module or operating system; some is allowed, ours needs none."""
    yield from (f"{key} is set" for key in ("seLinuxOptions", "windowsOptions") if key in context)


def _list_keys(node: object) -> set[str]:
    if isinstance(node, dict):
        inner = cast("dict[str, object]", node)
        return set(inner).union(*(_list_keys(each) for each in inner.values()))
    return set()


def _check_enums(node: object, place: str) -> Iterator[str]:
    if isinstance(node, list):
        for each in cast("list[object]", node):
            yield from _check_enums(each, place)
    elif isinstance(node, dict):
        for key, value in cast("dict[str, object]", node).items():
            values = TYPES.get(place) if key == "type" else ENUMS.get(key)
            if values is not None and value not in values:
                yield f"{place}.{key}: {value}"
            yield from _check_enums(value, key)


__all__ = ["find_problems"]
