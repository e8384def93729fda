"""What `benchmarks.ray_replicas` makes of streams, and how it checks files strictly; Ray itself is not needed."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import ray_replicas
from benchmarks.harness.targets import judged
from benchmarks.ray_replicas import MISSPELT, main, misspelt
from benchmarks.ray_trial import app, crd, load, schema
from benchmarks.ray_trial.load import Sent
from tests.benchmarks.harness.scripted_server import scripted
from tests.fake_upstream import event

KILLED, OTHER, AT = 11, 22, 100.0
CUT = Sent(KILLED, ("upstream_error",), AT + 0.4, False)
GOOD = [Sent(KILLED, (), AT - 1, True), Sent(OTHER, (), AT + 2, True), CUT]

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  group: example.org
  names: {kind: Toy}
  versions:
    - name: v1
      served: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [size]
              properties:
                size: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                colour: {type: string, nullable: true, enum: [red, blue, null]}
                count: {type: integer, format: int32, maximum: 3}
                labels: {type: object, additionalProperties: {type: string}}
                parts: {type: array, items: {type: object, properties: {name: {type: string}}}}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
                pod: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: {type: object}}}
"""
TOY = """
apiVersion: example.org/v1
kind: Toy
metadata: {name: a, labels: {b: c}}
spec:
  size: 50%
  colour: null
  count: 3
  labels: {anything: goes}
  parts: [{name: wheel}]
  free: {a: b, c: {d: 1}}
  pod: {apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {}}
"""


def missed(*more: Sent, sent: list[Sent] | None = None, again: int = 2) -> list[str]:
    """Return the targets that are missed."""
    verdicts = load.judge([*(GOOD if sent is None else sent), *more], KILLED, AT, again, 2)
    return [own.target for own in verdicts if own.word == "missed"]


def test_a_cut_stream_is_a_typed_error_in_time() -> None:
    """All others are whole, and both replicas answer again."""
    assert missed() == []


@pytest.mark.parametrize(
    ("sent", "target"),
    [
        (Sent(None, ("upstream_error",), AT + 0.1, False), "none failed that had not begun"),
        (Sent(None, ("not_ready",), AT + 0.1, False), "none failed that had not begun"),
        (Sent(KILLED, (), AT + 0.1, False), "each that had begun there ended in one typed error"),
        (Sent(KILLED, ("upstream_error",) * 2, AT, False), "each that had begun there ended in one typed error"),
        (Sent(KILLED, ("IncompleteRead",), AT, False), "each that had begun there ended in one typed error"),
        (Sent(KILLED, ("upstream_error",), AT + 1.2, False), "within 1 s of the kill"),
        (Sent(OTHER, ("upstream_error",), AT, False), "all others are whole"),
    ],
)
def test_each_failure_misses_its_own_target(sent: Sent, target: str) -> None:
    """Whoever reads the verdicts knows what to look for."""
    assert missed(sent) == [target]


def test_a_kill_that_nobody_saw_proves_nothing() -> None:
    """Nor does a replica that does not come back."""
    assert missed(sent=GOOD[:2]) == ["streams were cut by the kill"]
    assert missed(again=1) == ["as many replicas as before answer again"]


@pytest.mark.parametrize(
    ("end", "sent"),
    [
        (event("[DONE]"), (KILLED, (), True)),
        (event({"error": {"code": "upstream_error"}}), (KILLED, ("upstream_error",), False)),
        (b"", (KILLED, (), False)),
    ],
)
def test_a_stream_says_who_has_begun_it_and_how_it_ended(end: bytes, sent: tuple[int, tuple[str, ...], bool]) -> None:
    """By the first word of the application."""
    begun = app.event({"content": f"pid{KILLED} "}).encode()
    with scripted(200, begun + end) as server:
        found = load.send(server.address, 3)
        assert server.asked[0][1]["X-Forwarded-For"] == "10.0.0.4"
    assert (found.pid, found.errors, found.whole) == sent


def test_a_request_that_is_refused_has_not_begun() -> None:
    """Its code is told, or its status; so is a connection that nobody takes."""
    with scripted(503, b'{"error": {"code": "not_ready"}}') as typed, scripted(500, b"oops") as untyped:
        found = [load.send(server.address, 0) for server in (typed, untyped)]
    found.append(load.send("http://127.0.0.1:9", 0))
    assert [(one.pid, one.errors, one.whole) for one in found] == [
        (None, ("not_ready",), False),
        (None, ("status 500",), False),
        (None, ("ConnectionRefusedError",), False),
    ]


@pytest.fixture
def definitions(tmp_path: Path) -> list[dict[str, Any]]:
    """A definition, read from a file in which an empty document stands as well."""
    (file := tmp_path / "crd.yaml").write_text(f"---\n{DEFINITION}---\n")
    return crd.read(str(file))


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, Any]:
    """An object of it that is right."""
    (file := tmp_path / "toy.yaml").write_text(TOY)
    (document,) = crd.read(str(file))
    return document


def test_a_right_object_has_no_mistake(definitions: list[dict[str, Any]], toy: dict[str, Any]) -> None:
    """What Kubernetes keeps or leaves open is free."""
    assert crd.mistakes(definitions, toy) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colours": "red"}, "'colours'"),
        ({"parts": [{"name": "wheel"}, {"nam": "saddle"}]}, "spec.parts.1: "),
        ({"pod": {"kind": "Pod", "specs": {}}}, "'specs'"),
        ({"colour": "green"}, "spec.colour: "),
        ({"size": 1.5}, "spec.size: "),
        ({"count": 4}, "spec.count: "),
        ({"count": None}, "spec.count: "),
        ({"labels": {"a": 1}}, "spec.labels.a: "),
    ],
)
def test_a_mistake_is_found_where_it_is(
    definitions: list[dict[str, Any]], toy: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    """A field that nobody knows, at any depth, and a value that is none of its."""
    (found,) = crd.mistakes(definitions, toy | {"spec": toy["spec"] | change})
    assert said in found


def test_a_field_that_is_missing_is_a_mistake(definitions: list[dict[str, Any]], toy: dict[str, Any]) -> None:
    """And so is an object that no definition has."""
    del toy["spec"]["size"]
    (found,) = crd.mistakes(definitions, toy)
    assert "size" in found
    with pytest.raises(ValueError, match="No definition has Toy of example.org/v2"):
        crd.mistakes(definitions, toy | {"apiVersion": "example.org/v2"})


def test_a_definition_is_read_from_an_address(tmp_path: Path) -> None:
    """As from a file; where nobody answers is an error."""
    (tmp_path / "crd.yaml").write_text(DEFINITION)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert crd.read(f"http://127.0.0.1:{server.server_port}/crd.yaml") == crd.read(str(tmp_path / "crd.yaml"))
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(OSError, match="refused"):
        crd.read(f"http://127.0.0.1:{server.server_port}/crd.yaml")


@dataclass
class Inner:
    """Stands for a model of pydantic."""

    port: int = 1
    model_fields: ClassVar[dict[str, Any]] = {"port": None}


@dataclass
class Outer:
    """One with others in it."""

    http: Inner = field(default_factory=Inner)
    applications: list[Inner] = field(default_factory=lambda: [Inner()])
    args: dict[str, Any] = field(default_factory=dict)
    model_fields: ClassVar[dict[str, Any]] = {"http": None, "applications": None, "args": None}


def test_a_field_that_ray_would_pass_over_is_found() -> None:
    """At any depth of its models; what they leave open is free."""
    given = {"http": {"port": 1}, "applications": [{"port": 2}], "args": {"any": {"thing": 1}}}
    assert list(schema.unknown(Outer(), given, "")) == []
    wrong = {"http": {"ports": 1}, "applications": [{"prt": 2}], "arg": {}}
    assert list(schema.unknown(Outer(), wrong, "")) == [
        "http.ports is no field of Inner",
        "applications.0.prt is no field of Inner",
        "arg is no field of Outer",
    ]


@pytest.mark.parametrize("name", MISSPELT)
def test_the_misspelt_field_is_one_of_the_file(name: str) -> None:
    """It is not in what is read from the tree, and the tree's is left as it is."""
    (document,) = crd.read(str(ray_replicas.FOLDER / name))
    before = copy.deepcopy(document)
    part, own = MISSPELT[name]
    assert misspelt(name, document)[part].keys() ^ before[part].keys() == {own, f"{own}x"}
    assert document == before


def test_what_is_not_found_fails_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words stand in the results."""
    monkeypatch.setattr(ray_replicas, "kubernetes", lambda _: [judged("it is right", False, "it is not")])
    assert main(["--crd", "nowhere", "--results", str(tmp_path)]) == 1
    assert "missed (it is not)" in (tmp_path / "ray_replicas.md").read_text()


def test_a_definition_that_lets_anything_pass_is_no_proof(tmp_path: Path) -> None:
    """A misspelt field has to be found."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "schema": {"openAPIV3Schema": anything}}
    spec = {"group": "ray.io", "names": {"kind": "RayService"}, "versions": [version]}
    (file := tmp_path / "crd.yaml").write_text(json.dumps({"spec": spec}))
    right, slip = ray_replicas.kubernetes(str(file))
    assert (right.word, slip.word) == ("met", "missed")


def test_something_is_to_be_tried() -> None:
    """Neither Ray nor a definition is an error of the command line."""
    with pytest.raises(SystemExit):
        main([])
