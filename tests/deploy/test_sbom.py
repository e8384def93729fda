"""The bill of materials is CycloneDX and lists exactly the pins, and the page's vendored scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from deploy.pins import Pin, read_pins
from deploy.sbom import bill, main
from tests.test_requirements import CUDA, RUN

ROOT = Path(__file__).parents[2]
PINNED = {"cpu": RUN, "cuda": RUN | CUDA}


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def document(variant: str) -> dict[str, Any]:
    return bill(variant)


def test_it_is_cyclonedx(document: dict[str, Any]) -> None:
    """The published schema of version 1.6 has nothing against it."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


def test_it_lists_exactly_the_pins(document: dict[str, Any], variant: str) -> None:
    """Each by its name and version, for the GPU's image those of CUDA too; what only some systems take is optional."""
    urls = [PackageURL.from_string(component["purl"]) for component in document["components"]]
    listed = {url.name: f"=={url.version}" for url in urls if url.type == "pypi"}
    assert listed == {name: str(requirement.specifier) for name, requirement in PINNED[variant].items()}
    optional = {component["name"] for component in document["components"] if component.get("scope") == "optional"}
    assert optional == {name for name, requirement in PINNED[variant].items() if requirement.marker}


def test_it_lists_the_scripts_that_the_page_brings(document: dict[str, Any]) -> None:
    """What is kept in static/vendor is third-party code as well."""
    scripts = [component["name"] for component in document["components"] if component["purl"].startswith("pkg:npm/")]
    assert scripts == [path.stem for path in sorted((ROOT / "static/vendor").glob("*.js"))]


def test_one_tree_has_one_bill(document: dict[str, Any], variant: str) -> None:
    """Byte for byte, in another process too; the two variants differ."""
    command = [sys.executable, "-m", "deploy.sbom", variant]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    assert json.loads(printed) == document
    assert bill("cpu")["serialNumber"] != bill("cuda")["serialNumber"]


def test_another_variant_prints_the_usage() -> None:
    """There are two."""
    assert main(["gpu"]) == 2
    assert main([]) == 2


@pytest.mark.parametrize("line", ["flask>=3", "flask", "flask==3.1.3,<4"])
def test_a_line_that_pins_nothing_is_refused(line: str, tmp_path: Path) -> None:
    """A bill of ranges would say nothing."""
    (tmp_path / "requirements.txt").write_text(f"# a comment\n\n--constraint other.txt\nFlask_Cors==6.0\n{line}\n")
    with pytest.raises(ValueError, match="pins no version"):
        read_pins(tmp_path / "requirements.txt")


def test_a_pin_has_its_canonical_name_and_knows_its_marker(tmp_path: Path) -> None:
    """As indexes and advisories name it."""
    (tmp_path / "requirements.txt").write_text("Flask_Cors==6.0\ncolorama==0.4 ; sys_platform == 'win32'\n")
    assert read_pins(tmp_path / "requirements.txt") == [
        Pin("colorama", "0.4", everywhere=False),
        Pin("flask-cors", "6.0"),
    ]
