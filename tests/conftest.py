"""What holds for every test: no test, and no process a test starts, reads the operator's `.env`."""

import os

os.environ["ENV_FILE"] = os.devnull
