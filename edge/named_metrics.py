"""Who may read the metrics that name keys and persons: programs on this machine, and the operator."""

from __future__ import annotations

from flask import Request

from edge import caller
from edge.rate_limit import OverBudget
from edge.request_state import request_state
from edge.services import services


def may_see_names(request: Request) -> bool:
    """True for a local request and for one with ADMIN_KEY. A wrong key is one of its client's tries, and no error.

    An error would end the monitoring whenever the key is renewed.
    """
    if caller.is_local(request):
        return True
    offered, admin_key = caller.bearer_key(request), services().settings.security.admin_key
    if offered is None or admin_key is None:
        return False
    try:
        return services().key_tries.fits(offered, admin_key, caller.budget_key(request_state().client))
    except OverBudget:
        return False
