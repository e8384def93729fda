"""The health check of containers: `python -m deploy.health_check`.

It requests readiness at the port of the settings and prints one line. The exit status is 0 if both models are ready,
else 1.
"""

from __future__ import annotations

import sys

from config import Settings, settings_or_exit
from deploy.probe import address, fetch_json

PATH = "/api/health/ready"


def check(settings: Settings) -> tuple[bool, str]:
    """Return whether the service is ready, and a line with the reason if not."""
    server = settings.server
    url = address(server.host, str(server.port)) + PATH
    status, body = fetch_json(url)
    if status == 200:
        return True, "ready"
    if status == 0:
        return False, f"no answer from {url}"
    return False, f"{body.get('status', status)}: {body.get('reason', 'no reason given')}"


def main() -> int:
    """Print the line and return the exit status."""
    ready, line = check(settings_or_exit())
    print(line)
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
