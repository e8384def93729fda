"""The table of routes: the application does not start if a route has no row or a row no route."""

import pytest
from flask import Flask

from app_production import create_app
from edge.route_table import ROUTES, Budget, RouteTableError, Row, check_routes
from routes.pages import pages


def test_a_route_without_a_row_stops_the_start():
    """A new route without rules is found at the start."""
    app = Flask(__name__, static_folder=None)
    app.add_url_rule("/forgotten", view_func=lambda: "", methods=["GET", "POST"])
    with pytest.raises(RouteTableError, match="POST /forgotten"):
        check_routes(app, {"GET /forgotten": Row()})


def test_a_row_without_a_route_stops_the_start():
    """A row without a route is found as well."""
    with pytest.raises(RouteTableError, match="rows without a route: .'GET /gone'"):
        check_routes(Flask(__name__, static_folder=None), {"GET /gone": Row()})


def test_the_application_itself_is_checked(settings, models, machine):
    """create_app checks its routes against the table."""
    app = create_app(settings, models, machine)
    check_routes(app)
    assert len(ROUTES) == sum(len(rule.methods - {"HEAD", "OPTIONS"}) for rule in app.url_map.iter_rules())
    unprotected = Flask(__name__)
    unprotected.register_blueprint(pages)
    with pytest.raises(RouteTableError):
        check_routes(unprotected)


def test_every_route_that_generates_names_its_protocol():
    """The requests of a new interface do not count as another one's."""
    generating = {name: row.protocol for name, row in ROUTES.items() if row.budget is Budget.GENERATION}
    assert None not in generating.values()
    assert all(row.protocol is None for name, row in ROUTES.items() if name not in generating)
