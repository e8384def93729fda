"""Prints the upper limit of the service's memory with the operator's settings, without loading a model.

`python -m deploy.memory_limits` prints the line of JSON that a start logs, `... systemd` a drop-in of the unit, and
`... kubernetes` the memory of the container's resources.
"""

from __future__ import annotations

import sys

from config import Settings, settings_or_exit
from engine.errors import StartError
from models.memory_plan import MemoryPlan, memory_plan
from models.selection import planned_models

FORMS = {"": MemoryPlan.as_json, "systemd": MemoryPlan.as_systemd, "kubernetes": MemoryPlan.as_kubernetes}


def main(arguments: list[str], settings: Settings | None = None) -> int:
    """Print the plan in the requested form; return the exit status. settings: the operator's, unless given."""
    form = arguments[0] if arguments else ""
    if form not in FORMS:
        print(f"usage: python -m deploy.memory_limits [{'|'.join(filter(None, FORMS))}]", file=sys.stderr)
        return 2
    settings = settings or settings_or_exit()
    try:
        print(FORMS[form](memory_plan(settings, planned_models(settings))))
    except StartError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
