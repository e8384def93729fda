"""Says whether the service on this machine, at the port of its settings, takes requests.

`python -m deploy.health_check` is the health check of containers. One line tells why not; the exit status is 0 while
both models are ready, else 1.
"""

from __future__ import annotations

import sys

from config import Settings, settings_or_exit
from deploy.probe import address, fetch_json

PATH = "/api/health/ready"


def check(settings: Settings) -> tuple[bool, str]:
    """Return whether the service is ready, and a line that says so or why not."""
    server = settings.server
    url = address(server.host, str(server.port)) + PATH
    status, body = fetch_json(url)
    if status == 200:
        return True, "ready"
    if status == 0:
        return False, f"no answer from {url}"
    return False, f"{body.get('status', status)}: {body.get('reason', 'no reason was given')}"


def main() -> int:
    """Print the line and return the exit status."""
    ready, line = check(settings_or_exit())
    print(line)
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
