"""What `upstream_servers` starts, asks and judges: real servers behind the service."""
