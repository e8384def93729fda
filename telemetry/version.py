"""What runs: the version of the service, stated here alone, and the release, which is the folder it runs from.

`deploy.sh production` names a release by its date and its content. The Dockerfile repeats the version for the label of
the image, and CHANGELOG.md is headed by it; a test compares them.
"""

from pathlib import Path

VERSION = "1.0.0"
RELEASE = Path(__file__).resolve().parents[1].name
