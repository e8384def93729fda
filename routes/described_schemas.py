"""The schemas of all bodies for OpenAPI, generated from the models that validate requests and the classes of answers.

Generators of clients name a class after a schema's title, and require a field that has a default: so no two schemas
have one title, fields have none, and an optional field has no default of null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from edge.route_table import JSON
from engine.text.images import MAX_IMAGES
from routes.route_bodies import Model, RouteBodies

SCHEMAS = "#/components/schemas/{model}"
FILE = {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP, GIF, BMP, AVIF or ICO, at most 16 MiB"}
FILES = {"anyOf": [FILE, {"type": "array", "items": FILE, "minItems": 1, "maxItems": MAX_IMAGES}]}
DATA_URL = {"type": "string", "format": "image-data-url", "description": "data:image/png;base64,..."}
DATA_URLS = {"anyOf": [DATA_URL, {"type": "array", "items": DATA_URL, "minItems": 1, "maxItems": MAX_IMAGES}]}


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Put the objects of a union beside its other branches: by a discriminator some validators pass any text."""
        described = super().tagged_union_schema(schema)
        if "discriminator" not in described:
            branches = described["oneOf"]
            described["oneOf"] = [one for branch in branches for one in branch.get("oneOf", [branch])]
        return described

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if described.get("default", ...) is None:
            del described["default"]
        return described


def query_schema(query: type[BaseModel]) -> dict[str, Any]:
    """Return the schemas of a query's parameters by name."""
    properties: dict[str, Any] = query.model_json_schema(schema_generator=_Generator)["properties"]
    return properties


def component_schemas(
    routes: Mapping[str, RouteBodies], failures: Iterable[Model], model_ids: list[str]
) -> dict[str, Any]:
    """Return the schemas of all bodies by name. model_ids: what a request can name as its model."""
    requests = {model for one in routes.values() for model in one.requests.values()}
    responses = {model for one in routes.values() for model in _response_models(one)}
    models: Any = [(model.__name__, "validation", TypeAdapter(model)) for model in requests]
    models += [(model.__name__, "serialization", TypeAdapter(model)) for model in (*responses, *failures)]
    models.sort(key=lambda model: model[0])
    _, described = TypeAdapter.json_schemas(models, ref_template=SCHEMAS, schema_generator=_Generator)
    schemas: dict[str, Any] = described["$defs"]
    for name, schema in schemas.items():
        schema["title"] = name
    for request in requests:
        if "model" in (properties := schemas[request.__name__]["properties"]):
            properties["model"]["enum"] = model_ids
    _describe_images(schemas)
    return schemas


def _response_models(route: RouteBodies) -> list[Model]:
    return [model for model in (*route.responses.values(), *route.more.values()) if model is not None]


def _describe_images(schemas: dict[str, Any]) -> None:
    """Describe images, and the forms: a form's parts are no JSON, and its image is a part beside the fields."""
    for name in ("TextForm", "ImageForm", "ImageAnalyzeForm"):
        _without_null(schemas[name])
    for name in ("ImageForm", "ImageAnalyzeForm"):
        schemas[name]["properties"]["image"] = FILES
        schemas[name]["required"].append("image")
    schemas["ImageAnalyzeRequest"]["properties"]["image"] = DATA_URLS
    schemas["ImageUrl"]["properties"]["url"] = DATA_URL


def _without_null(schema: dict[str, Any]) -> None:
    """Remove null from the fields of a form, which cannot send it."""
    for name, described in schema["properties"].items():
        if "anyOf" in described:
            (value,) = [option for option in described["anyOf"] if option != {"type": "null"}]
            if value["type"] == "array":  # a part of a form holds it as a JSON text
                value = {"type": "string", "contentMediaType": JSON}
            schema["properties"][name] = value | {key: described[key] for key in ("description",) if key in described}
