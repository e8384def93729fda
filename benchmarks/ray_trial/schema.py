"""Checks Serve configurations by Ray's own schemas, run by a Python that has `ray[serve]`; with vLLM, their models too.

It reads a JSON list of documents from its input and prints, for each, `mistakes` and whether the `models` were checked.
Ray ignores fields that it does not know, so that they are looked for here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

ROUTER = "request_router_config"


def mistakes(document: Mapping[str, Any], models: bool) -> list[str]:
    """Return what is wrong with a configuration. models: check the arguments of Ray Serve LLM as well."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema  # type: ignore[import-not-found]

    try:
        found = list(unknown(ServeDeploySchema.model_validate(document), document, ""))
        for application in document["applications"]:
            found += deployment_mistakes(application.get("args", {}), models)
            found += model_mistakes(application["args"]) if models else ()
    except (ValidationError, ValueError, TypeError) as error:
        return [str(error)]
    return found


def deployment_mistakes(arguments: Mapping[str, Any], models: bool) -> Iterator[str]:
    """Yield the unknown fields of the deployments in the arguments of build_openai_app. Raises ValidationError.

    models: check the routers of requests as well, whose classes are imported, with vLLM.
    """
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig  # type: ignore[import-not-found]
    from ray.serve.schema import DeploymentSchema

    parts = {"autoscaling_config": AutoscalingConfig, ROUTER: RequestRouterConfig}
    for number, config in enumerate(arguments.get("llm_configs", ())):
        where = f"args.llm_configs.{number}.deployment_config."
        given = {name: one for name, one in config.get("deployment_config", {}).items() if models or name != ROUTER}
        yield from unknown(DeploymentSchema.model_validate({"name": "any", **given}), given, where)
        for name in parts.keys() & given.keys():
            yield from unknown(parts[name].model_validate(given[name]), given[name], f"{where}{name}.")


def model_mistakes(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the arguments of build_openai_app. Raises ValidationError."""
    from ray.serve.llm import LLMServingArgs  # type: ignore[import-not-found]
    from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found]
    from vllm.entrypoints.launchers.cli_args import FrontendArgs  # type: ignore[import-not-found]

    yield from unknown(LLMServingArgs.model_validate(arguments), arguments, "args.")
    known = {one.name for kind in (AsyncEngineArgs, FrontendArgs) for one in dataclasses.fields(kind)}
    for number, config in enumerate(arguments["llm_configs"]):
        for name in sorted(config.get("engine_kwargs", {}).keys() - known):
            yield f"args.llm_configs.{number}.engine_kwargs.{name} is none of vLLM's arguments"


def unknown(model: Any, given: Any, where: str) -> Iterator[str]:
    """Yield each name that stands in a document and in no field of the models that it was read into."""
    if isinstance(given, list) and isinstance(model, list | tuple):
        for number, (one, part) in enumerate(zip(model, given, strict=False)):
            yield from unknown(one, part, f"{where}{number}.")
    fields = getattr(type(model), "model_fields", None)
    if not isinstance(given, dict) or fields is None:
        return
    for name, value in given.items():
        if name not in fields:
            yield f"{where}{name} is no field of {type(model).__name__}"
        else:
            yield from unknown(getattr(model, name), value, f"{where}{name}.")


def main() -> None:
    """Check what is read, and print what was found."""
    models = importlib.util.find_spec("vllm") is not None
    found = [{"mistakes": mistakes(one, models), "models": models} for one in json.load(sys.stdin)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
