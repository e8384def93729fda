"""`./deploy.sh keys`: the commands of `python -m keys`, whose help names what was typed."""

from __future__ import annotations

import sys

from keys.__main__ import main

if __name__ == "__main__":
    sys.exit(main(called="./deploy.sh keys"))
