"""The pinned packages: every version, transitive ones too, without local suffixes, and all that the code imports."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11.2", "3.11.14", "3.12.12", "3.13.9")
NEEDED = (
    "flask gunicorn torch transformers accelerate pillow psutil python-dotenv flask-cors limits redis "
    "prometheus-client pydantic nvidia-ml-py"
).split()
# Imported only where they happen to be installed, or by programs of other environments.
OPTIONAL = {"torchvision", "gguf", "ray", "starlette", "vllm", "xllamacpp"}
# Brought by torch's CUDA build, and imported only where a card is used.
WITH_CUDA = {"triton"}
# Known to type checkers alone, which bring it along.
TYPES_ONLY = {"_typeshed"}
# Made of the description of the API by a program of tests/clients.
GENERATED = {"avito_ai_api_client"}


def lines(name: str) -> list[str]:
    """Return the file's lines without comments."""
    texts = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [text for text in texts if text]


def pins(name: str) -> dict[str, Requirement]:
    """Return the pinned packages of one file by their canonical name."""
    found = [Requirement(line) for line in lines(name) if not line.startswith("-")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


RUN, TEST, CUDA = pins("requirements.txt"), pins("requirements-test.txt"), pins("deploy/constraints-cuda.txt")
DRAW, FUZZ = pins("benchmarks/requirements.txt"), pins("tests/fuzz/requirements.txt")


def environment(python: str) -> dict[str, str]:
    """Return this machine's markers as another Python would report them."""
    short = python.rpartition(".")[0]
    return {**default_environment(), "python_version": short, "python_full_version": python, "extra": ""}


def missing(pinned: dict[str, Requirement], python: str) -> Iterator[str]:
    """Yield what some pinned package needs on this Python and no line pins."""
    where = environment(python)
    here = {name for name, pin in pinned.items() if pin.marker is None or pin.marker.evaluate(where)}
    for name in sorted(here):
        try:
            needs = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue  # pinned for another Python or system
        for need in needs:
            wanted = need.marker is None or need.marker.evaluate(where)
            if wanted and canonicalize_name(need.name) not in here | set(CUDA):
                yield f"{name} needs {need}"


def imported(paths: Iterator[Path]) -> set[str]:
    """Return the top-level names that the files import."""
    names: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def sources() -> Iterator[Path]:
    """Yield every Python file of the tree."""
    skipped = {".venv", ".git", "node_modules", "build"}
    return (path for path in ROOT.rglob("*.py") if not skipped & set(path.relative_to(ROOT).parts))


def of_clients(path: Path) -> bool:
    """Return whether a file is of the suite of a client's library, which has an environment of its own."""
    return path.is_relative_to(ROOT / "tests" / "clients") and path.parent.name != "clients"


def foreign(paths: Iterator[Path]) -> set[str]:
    """Return the packages, by canonical name, that bring what the files import."""
    own = {path.stem for path in ROOT.iterdir()}
    brings = packages_distributions()
    names = imported(paths) - own - set(sys.stdlib_module_names) - {"conftest"} - TYPES_ONLY - GENERATED
    return {canonicalize_name(brings.get(name, [name])[0]) for name in names} - OPTIONAL


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-test.txt", "deploy/constraints-cuda.txt", "benchmarks/requirements.txt"]
)
def test_every_version_is_pinned_without_a_build(name: str) -> None:
    """One exact version a line; no local suffix such as +cpu, which would tie everybody to one build."""
    for requirement in pins(name).values():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement


def test_what_the_service_is_made_of_is_there() -> None:
    """The packages that the project is built on are all pinned."""
    assert set(NEEDED) <= set(RUN)


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "tests" / "clients").glob("*/suite.*")), ids=lambda path: path.parent.name
)
def test_the_library_of_each_client_is_pinned(folder: Path) -> None:
    """Exactly, with all that it needs; a suite in JavaScript pins what it imports."""
    if folder.suffix == ".py":
        names = pins(str(folder.with_name("requirements.txt").relative_to(ROOT)))
        assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", str(one.specifier)) for one in names.values())
        assert "pytest" in names
    else:
        pinned = json.loads(folder.with_name("package.json").read_text(encoding="utf-8"))["dependencies"]
        assert all(re.fullmatch(r"[0-9][0-9.]*", version) for version in pinned.values())


@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_packages_need_is_pinned_too(python: str) -> None:
    """Transitive requirements are pinned on every supported Python."""
    assert list(missing(RUN, python)) == []
    assert list(missing(RUN | TEST, python)) == []


def test_a_machine_without_a_gpu_gets_no_cuda_packages() -> None:
    """The gigabytes of CUDA are constraints alone: they pin what torch's CUDA build asks for and install nothing."""
    assert not [name for name in RUN if name.startswith(("nvidia-", "cuda-", "triton")) and name != "nvidia-ml-py"]
    assert "--constraint deploy/constraints-cuda.txt" in lines("requirements.txt")
    assert not set(CUDA) & set(RUN)


def test_the_tests_install_what_runs() -> None:
    """The tests see the versions that run, not others."""
    assert "--requirement requirements.txt" in lines("requirements-test.txt")
    assert not set(RUN) & set(TEST)


@pytest.mark.slow
def test_all_that_the_service_imports_is_pinned() -> None:
    """A fresh machine has every package that the code asks for; the tests' own are not among them."""
    service = (path for path in sources() if path.relative_to(ROOT).parts[0] not in ("tests", "benchmarks", "demo"))
    assert foreign(service) - set(RUN) == WITH_CUDA <= set(CUDA)


@pytest.mark.slow
def test_all_that_tests_and_benchmarks_import_is_pinned() -> None:
    """`deploy.sh test` brings what the rest of the tree needs; only the benchmarks' plots ask for more."""
    rest = (path for path in sources() if not of_clients(path))
    assert foreign(rest) - set(RUN) - set(TEST) == set(DRAW) & {"matplotlib"} | set(FUZZ)
