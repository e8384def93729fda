"""Checks an object of Kubernetes strictly by its CustomResourceDefinition: a field that it does not know is a mistake.

An API server drops such fields with a warning at most, so that a misspelt one would change nothing and be missed.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml  # type: ignore[import-untyped]

TIMEOUT = 60.0  # seconds
OF_ANY_OBJECT = ("apiVersion", "kind", "metadata")
# What says nothing of the form, or in words that JSON schemas do not have.
LEFT_OUT = ("description", "default", "format", "nullable", "example", "externalDocs")
INT_OR_STRING, PRESERVED, EMBEDDED = (
    f"x-kubernetes-{name}" for name in ("int-or-string", "preserve-unknown-fields", "embedded-resource")
)


def read(where: str) -> list[dict[str, Any]]:
    """Return the documents of a YAML file or an address."""
    if where.startswith(("http://", "https://")):
        with urllib.request.urlopen(where, timeout=TIMEOUT) as answer:
            text = answer.read().decode()
    else:
        text = Path(where).read_text(encoding="utf-8")
    return [one for one in yaml.safe_load_all(text) if one]


def mistakes(definitions: list[dict[str, Any]], document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an object. definitions: those of a file. Raises ValueError if none is of its kind."""
    validator = jsonschema_rs.validator_for(strict(schema_of(definitions, document)))
    return sorted(_told(error) for error in validator.iter_errors(dict(document)))


def schema_of(definitions: list[dict[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object's kind and version. Raises ValueError."""
    group, _, version = str(document["apiVersion"]).rpartition("/")
    for definition in definitions:
        spec = definition.get("spec", {})
        if spec.get("group") != group or spec.get("names", {}).get("kind") != document["kind"]:
            continue
        for one in spec["versions"]:
            if one["name"] == version and one["served"]:
                schema: dict[str, Any] = one["schema"]["openAPIV3Schema"]
                return schema
    raise ValueError(f"No definition has {document['kind']} of {document['apiVersion']}.")


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a structural schema (Kubernetes, "Extend the API with CustomResourceDefinitions") as one of JSON's.

    Objects have no fields but those that it names, where it names any and does not keep others.
    """
    made = {name: value for name, value in schema.items() if name not in LEFT_OUT and not name.startswith("x-")}
    if schema.get(INT_OR_STRING):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in made:
        made["type"] = [*([made["type"]] if isinstance(made["type"], str) else made["type"]), "null"]
    if "properties" in schema:
        made["properties"] = dict(_strict_properties(schema))
        if not schema.get(PRESERVED) and "additionalProperties" not in schema:
            made["additionalProperties"] = False
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            made[name] = strict(schema[name])
    return made


def _strict_properties(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if schema.get(EMBEDDED):
        yield from ((name, {}) for name in OF_ANY_OBJECT)
    yield from ((name, strict(one)) for name, one in schema["properties"].items())


def _told(error: jsonschema_rs.ValidationError) -> str:
    return f"{'.'.join(map(str, error.instance_path)) or 'the document'}: {error.message[:200]}"
