"""A process that holds one value to one JSON schema of a stranger, and is killed where that takes long.

`python schema_process.py` reads a list from standard input, the schema and the values, and prints one word of WORDS.
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
    schema, *values = json.load(sys.stdin)
    try:
        validator = jsonschema_rs.validator_for(schema, offline=True, pattern_options=jsonschema_rs.RegexOptions())
    except (ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError):
        print(NO_SCHEMA)
        return
    print(VALID if all(map(validator.is_valid, values)) else BROKEN)


if __name__ == "__main__":
    main()
