"""What the service depends on, each tried for real: by /health/detailed and by `python config.py --check`."""
