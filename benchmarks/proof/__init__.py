"""One program for each promise of the service; each prints its figures and exits with 1 where the promise is broken."""
