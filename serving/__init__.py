"""How Gunicorn serves the application: worker, connections, start, hand-over and systemd notifications."""
