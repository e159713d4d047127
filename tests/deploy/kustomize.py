"""A directory of ours -> its manifests, as `kubectl kustomize` makes them, for what our directories use.

Resources, strategic merge patches with or without a target, a generated ConfigMap, and labels. Anything else
is refused, so that nothing is passed over in silence. A test compares it with kubectl, where there is one.
"""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml

Manifest: TypeAlias = dict[str, Any]

_FIELDS = frozenset({"apiVersion", "kind", "resources", "configMapGenerator", "patches", "labels"})

# By what the elements of a list are told apart, as Kubernetes' API says (patchMergeKey, read 2026-11).
_MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def build(directory: Path) -> list[Manifest]:
    """Return the manifests of a directory; the name of a generated ConfigMap has no hash here."""
    own = cast("Manifest", yaml.safe_load((directory / "kustomization.yaml").read_text(encoding="utf-8")))
    unknown = set(own) - _FIELDS
    assert not unknown, f"{directory}: {unknown}"
    manifests: list[Manifest] = []
    for name in own["resources"]:
        path = directory / name
        manifests += build(path) if path.is_dir() else read(path)
    for generator in own.get("configMapGenerator", ()):
        _generate(manifests, generator, directory)
    for patch in own.get("patches", ()):
        (change,) = read(directory / patch["path"])
        matched = [each for each in manifests if _is_meant(each, patch.get("target"), change)]
        assert matched, f"{directory}: {patch} changes nothing"
        for each in matched:
            _merge(each, {key: value for key, value in change.items() if key not in ("apiVersion", "kind")})
    for labels in own.get("labels", ()):
        for each in manifests:
            _add_labels(each, labels)
    return manifests


def read(path: Path) -> list[Manifest]:
    """Return the manifests of a file."""
    with path.open(encoding="utf-8") as file:
        return [cast("Manifest", each) for each in yaml.safe_load_all(file)]


def _generate(manifests: list[Manifest], generator: Manifest, directory: Path) -> None:
    assert set(generator) <= {"name", "files", "behavior"}
    data = {name: (directory / name).read_text(encoding="utf-8") for name in generator["files"]}
    if generator.get("behavior") == "replace":
        (found,) = [
            each
            for each in manifests
            if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", generator["name"])
        ]
        found["data"] = data
    else:
        metadata = {"name": generator["name"]}
        manifests.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _is_meant(manifest: Manifest, target: Manifest | None, change: Manifest) -> bool:
    if target is None:
        return (manifest["kind"], manifest["metadata"]["name"]) == (
            change["kind"],
            change["metadata"]["name"],
        )
    assert set(target) == {"kind"}
    # The patch's own kind and name mean nothing then.
    change["metadata"] = {}
    return re.fullmatch(target["kind"], manifest["kind"]) is not None


def _merge(into: Manifest, change: Manifest) -> None:
    for key, value in change.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), cast("Manifest", value))
        elif isinstance(value, list) and key in _MERGE_KEYS:
            into[key] = _merge_list(into.get(key, []), cast("list[Manifest]", value), _MERGE_KEYS[key])
        else:
            into[key] = value


def _merge_list(into: list[Manifest], change: list[Manifest], key: str) -> list[Manifest]:
    """Return the list with what the change has; new elements come first."""
    by_key = {each[key]: each for each in into}
    new = [deepcopy(each) for each in change if each[key] not in by_key]
    for each in change:
        if each[key] in by_key:
            _merge(by_key[each[key]], each)
    return new + into


def _add_labels(manifest: Manifest, labels: Manifest) -> None:
    manifest["metadata"].setdefault("labels", {}).update(labels["pairs"])
    template = manifest.get("spec", {}).get("template")
    if labels.get("includeTemplates") and template is not None:
        template["metadata"].setdefault("labels", {}).update(labels["pairs"])


__all__ = ["Manifest", "build", "read"]
