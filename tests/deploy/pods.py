"""A directory of manifests -> its workloads, their pods, and the sidecar in each with its environment."""

import re
from pathlib import Path

from tests.deploy.kustomize import Manifest, build
from tests.support.child import ROOT

__all__ = [
    "DIRECTORIES",
    "DOWNWARD",
    "KUBERNETES",
    "SECRET",
    "find_sidecar",
    "list_pods",
    "list_workloads",
    "resolve_environment",
]

KUBERNETES = ROOT / "deploy" / "kubernetes"
DIRECTORIES = [KUBERNETES / "base", *sorted((KUBERNETES / "overlays").iterdir())]

# What the downward API says of one pod.
DOWNWARD = {
    "metadata.name": "orders-6d4c-x2x9",
    "metadata.uid": "0f5a1c52-7f0e-4c8e-9a39-3a2f6a1d7b11",
    "metadata.namespace": "shop",
    "spec.nodeName": "node-7",
}
# What any Secret holds.
SECRET = "aa11"


def list_workloads(directory: Path) -> list[Manifest]:
    """Return what makes pods."""
    return [each for each in build(directory) if each["kind"] in ("Deployment", "Job")]


def list_pods(directory: Path) -> list[Manifest]:
    """Return the pods' specifications: the service's, and the job's."""
    pods = [each["spec"]["template"]["spec"] for each in list_workloads(directory)]
    assert len(pods) == 2
    return pods


def find_sidecar(pod: Manifest) -> Manifest:
    """Return the daemon's container."""
    (sidecar,) = [each for each in pod["initContainers"] if each["name"] == "metricsd"]
    return dict(sidecar)


def resolve_environment(container: Manifest) -> dict[str, str]:
    """Return the variables that the kubelet gives a container.

    Raises:
        KeyError: one names another that stands below it or nowhere, or a field that the pod does not have.
    """
    environ: dict[str, str] = {}
    for each in container["env"]:
        if "value" in each:
            value = re.sub(r"\$\((\w+)\)", lambda found: environ[found[1]], each["value"])
        else:
            source = each["valueFrom"]
            value = SECRET if "secretKeyRef" in source else DOWNWARD[source["fieldRef"]["fieldPath"]]
        environ[each["name"]] = value
    return environ
