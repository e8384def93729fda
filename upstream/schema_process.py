"""A process that holds values to JSON schemas of a stranger, and is killed where that takes long.

`python schema_process.py` reads a list from standard input, which begins with the list of the schemas and goes on with
the values, and prints one word of WORDS: whether every value satisfies every schema.
It imports nothing of the service, so that it starts quickly.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while: Ctrl+C is for the service to handle
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

import json
import sys

import jsonschema_rs

WORDS = VALID, BROKEN, NO_SCHEMA = "valid", "broken", "no schema"
MEMORY_BYTES = 512 << 20


def main() -> None:
    """Serve one job."""
    if sys.platform == "linux":
        import resource  # other systems may not have it

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    schemas, *values = json.load(sys.stdin)
    said = VALID
    for schema in schemas:
        try:
            validator = jsonschema_rs.validator_for(schema, offline=True, pattern_options=jsonschema_rs.RegexOptions())
        except (ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError):
            said = NO_SCHEMA
            break
        if not all(map(validator.is_valid, values)):
            said = BROKEN
    print(said)


if __name__ == "__main__":
    main()
