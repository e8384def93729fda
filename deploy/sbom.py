"""Prints the software bill of materials (SBOM) of one variant of the image: CycloneDX 1.6 as JSON, from the pins.

    python -m deploy.sbom cpu >sbom-cpu.cdx.json

The output is reproducible: it has no time, and its serial number is a hash of its components. It includes the page's
vendored scripts. The base image's system packages are in the SBOM that the build attaches to the image.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator

from deploy.pins import ROOT, VARIANTS, read_pins
from telemetry.version import VERSION

VENDORED = ROOT / "static/vendor"
FIRST_LINE = re.compile(r"/\*! ([\w-]+) (\d+\.\d+\.\d+)\b")


def bill(variant: str) -> dict[str, object]:
    """Return the document for `cpu` or `cuda`."""
    components = [*_packages(variant), *_scripts()]
    listed = [component["bom-ref"] for component in components]
    root = f"avito-ai@{VERSION}+{variant}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, "\n".join([root, *listed])).urn,
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": root, "name": "avito-ai", "version": VERSION}},
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": listed}],
    }


def _packages(variant: str) -> Iterator[dict[str, str]]:
    for pin in read_pins(*VARIANTS[variant]):
        component = _component(f"pkg:pypi/{pin.name}@{pin.version}", pin.name, pin.version)
        yield component if pin.everywhere else {**component, "scope": "optional"}


def _scripts() -> Iterator[dict[str, str]]:
    for path in sorted(VENDORED.glob("*.js")):
        found = FIRST_LINE.match(path.read_text("utf-8"))
        if found is None:
            raise ValueError(f"the first line of {path} has no name and version")
        name, version = found.groups()
        yield _component(f"pkg:npm/{name}@{version}", name, version)


def _component(purl: str, name: str, version: str) -> dict[str, str]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in VARIANTS:
        print(f"usage: python -m deploy.sbom {'|'.join(VARIANTS)}", file=sys.stderr)
        return 2
    print(json.dumps(bill(arguments[0]), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
