"""What `ray_replicas` starts, sends and checks: a small application on a real Ray, and the files of deploy/ray."""
