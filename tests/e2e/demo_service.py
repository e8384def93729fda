"""The real service, with both demo checkpoints, under a real Gunicorn."""

from tests.e2e.gunicorn_process import GunicornProcess, until

SETTINGS = {
    "VIBE_MODEL_DIR": "demo",
    "VISION_MODEL_DIR": "demo",
    "RATE_LIMIT_PER_MINUTE": "0",
    "RATE_LIMIT_PER_HOUR": "0",
    "LOG_LEVEL": "INFO",
}
LOADED_WITHIN = 600.0  # seconds


def ready(process):
    """Return whether both models take requests."""
    try:
        return process.get("/api/health/ready", timeout=2)[0] == 200
    except OSError:
        return False


def start(folder, **settings):
    """Return the server, once it is ready; to be used as a context."""
    process = GunicornProcess(folder, app="app_production:app", **SETTINGS | settings)
    try:
        until(lambda: ready(process), patience=LOADED_WITHIN)
    except BaseException:
        process.__exit__()
        raise
    return process
