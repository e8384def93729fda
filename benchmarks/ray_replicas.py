"""Kill one of two replicas behind a real Ray Serve, under load through the service, and check the files of deploy/ray.

    python -m benchmarks.ray_replicas [--ray PYTHON] [--crd FILE_OR_URL] [--rate N] [--seconds N] [--results FOLDER]

PYTHON is an interpreter with `ray[serve]`. It serves two replicas of a small application on this machine, which the
service asks for both models. Streams are sent at a steady rate; in their middle one replica is killed. Those that had
begun there end in one typed error within a second, no other fails, and both answer again. By the same interpreter
deploy/ray/serve.yaml is checked by Ray's schemas, and with vLLM in it, the models' arguments as well. --crd: KubeRay's
CustomResourceDefinition, by which deploy/ray/rayservice.yaml is checked. Unknown fields are mistakes in both files, and
a misspelt one has to be found. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.servers import Server, running
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.ray_trial import crd, load
from benchmarks.upstream_trial import served
from benchmarks.upstream_trial.served import Served

PACKAGES = ("aiohttp", "flask", "gunicorn")
REPLICAS, WORDS, GAP = 2, 12, 0.1  # of the application: seconds between two words
FOLDER = record.ROOT / "deploy" / "ray"
PROGRAMS = record.ROOT / "benchmarks" / "ray_trial"
MISSPELT = {"serve.yaml": ("http_options", "request_timeout_s"), "rayservice.yaml": ("spec", "serveConfigV2")}


def main(argv: Sequence[str] | None = None) -> int:
    """Check, try, write the results and return 1 if a target is missed."""
    options = _options(argv)
    facts, verdicts = record.facts(PACKAGES), []
    content: dict[str, Any] = {}
    if options.crd:
        verdicts += kubernetes(options.crd)
    if options.ray:
        verdicts += configuration(options.ray)
        with tempfile.TemporaryDirectory() as temporary:
            content |= try_replicas(options, options.logs or Path(temporary), Path(temporary))
        verdicts += content.pop("verdicts")
    tables = list(map(str, verdicts))
    print("\n\n".join(tables))
    if options.results:
        title = "Replicas on Ray behind the service"
        record.write("ray_replicas", facts, content, title, tables, options.results)
    return exit_status(verdict.word for verdict in verdicts)


def kubernetes(where: str) -> list[Verdict]:
    """Return the verdicts on rayservice.yaml. where: the file or address of KubeRay's definition."""
    definitions, (document,) = crd.read(where), crd.read(str(FOLDER / "rayservice.yaml"))
    found, slip = crd.mistakes(definitions, document), crd.mistakes(definitions, misspelt("rayservice.yaml", document))
    return _checked("rayservice.yaml", "KubeRay's definition", found, slip)


def configuration(python: Path) -> list[Verdict]:
    """Return the verdicts on serve.yaml. python: one with `ray[serve]`."""
    (document,) = crd.read(str(FOLDER / "serve.yaml"))
    asked = json.dumps([document, misspelt("serve.yaml", document)])
    command = [str(python), str(PROGRAMS / "schema.py")]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        return [judged("serve.yaml can be checked by Ray", False, done.stderr[-300:])]
    found, slip = json.loads(done.stdout.splitlines()[-1])
    by = "Ray's schemas, the models' arguments " + ("too" if found["models"] else "not, for want of vLLM")
    return _checked("serve.yaml", by, found["mistakes"], slip["mistakes"])


def misspelt(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with one field of MISSPELT written wrong."""
    part, field = MISSPELT[name]
    made = copy.deepcopy(document)
    made[part][f"{field}x"] = made[part].pop(field)
    return made


def _checked(name: str, by: str, found: list[str], slip: list[str]) -> list[Verdict]:
    wrong = f"{MISSPELT[name][1]}x"
    return [
        judged(f"{name} is right by {by}", not found, "; ".join(found) or "no mistake"),
        judged(
            f"a misspelt field of {name} is found", any(wrong in one for one in slip), "; ".join(slip) or "it is not"
        ),
    ]


def try_replicas(options: argparse.Namespace, logs: Path, folder: Path) -> dict[str, Any]:
    """Return what became of each stream, and the verdicts. logs: folder for output; folder: for what is written."""
    logs.mkdir(parents=True, exist_ok=True)
    ray = application(options.ray)
    with running(ray, logs / "ray.log") as upstream:
        front = served.in_front(Served(ray, "avibe", "vllm"), upstream, folder)
        settings = {"TRUSTED_PROXIES": "1", "MAX_NUM_SEQS": "1024"}
        with running(served.with_settings(front, settings), logs / "front.log") as address:
            before = load.replicas(address, REPLICAS)
            if len(before) < REPLICAS:
                return {"verdicts": [judged(f"{REPLICAS} replicas answer", False, f"{len(before)}")]}
            victim = min(before)
            sent, killed_at = load.under_load(address, options.rate, options.seconds, options.clients, victim)
            again = len(load.replicas(address, REPLICAS, without=victim))
    verdicts = load.judge(sent, victim, killed_at, again, REPLICAS)
    return {"killed_at": killed_at, "victim": victim, "sent": [asdict(one) for one in sent], "verdicts": verdicts}


def application(python: Path) -> Server:
    """Return the application on Ray."""
    command = (str(python), str(PROGRAMS / "app.py"), "{port}", str(REPLICAS), str(WORDS), str(GAP))
    return Server("Ray Serve", command, "/v1/models", env={"RAY_USAGE_STATS_ENABLED": "0"})


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ray", type=Path, help="an interpreter with ray[serve]")
    parser.add_argument("--crd", help="file or address of KubeRay's definition of a RayService")
    parser.add_argument("--rate", type=float, default=20.0, help="streams a second")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--clients", type=int, default=7, help="that the streams are of; of one, failures are its own")
    parser.add_argument("--results", type=Path, help="folder for ray_replicas.json and ray_replicas.md")
    parser.add_argument("--logs", type=Path, help="folder for what the servers say; else it is lost")
    options = parser.parse_args(argv)
    if not options.ray and not options.crd:
        parser.error("neither --ray nor --crd is there")
    return options


if __name__ == "__main__":
    sys.exit(main())
