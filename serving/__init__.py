"""How the service lives under Gunicorn: connections, start, take-over, drain, and what systemd is told."""
