"""The whole application for a real Gunicorn, over models that answer at once."""

from app_production import create_app
from config import settings_or_exit
from tests.fakes import scripted_models

app = create_app(settings_or_exit(), scripted_models())
