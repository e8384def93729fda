"""Programs that try to break the service's promises, each against a real Gunicorn; `python -m benchmarks.proof`."""
