"""The whole application for a real Gunicorn, over models that answer at once."""

from app_production import create_app
from config import settings_or_exit
from edge.services import services
from telemetry.access_lines import SparseLines
from tests.fakes import scripted_models

app = create_app(settings_or_exit(), scripted_models())
# Tests send more that is refused in a second than has lines, and each looks for its own.
SparseLines.__init__(services(app).access_lines, 100_000)
