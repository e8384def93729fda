"""Room for the log probabilities of answers: a token with twenty alternatives takes a hundred times what its text does.

They are kept until the last answer of a request has ended, and sent in one piece where it is not streamed.
"""

from __future__ import annotations

from flask import request

from edge.compression import BODIES_FULL
from edge.gate import grow_body
from engine.errors import Overloaded, ValidationError
from routes.generation_run import Run
from routes.services import services

BYTES_OF_A_SCORE = 300  # of one token or alternative: some 190 as it is kept, 90 as it is sent
BYTES_OF_A_PROMPT_SCORE = 800  # of a token of a prompt with five alternatives, as it is kept
FREE = 256 * 1024  # bytes of a request that are not counted
TOO_MANY = "The log probabilities of so many tokens are too many; ask for fewer alternatives, tokens or answers."


def hold_scores(run: Run, field: str) -> None:
    """Count the log probabilities of all answers like a body, as long as they may become; once that was given back.

    field: of the request that asks for them. Raises Overloaded where the budget of bodies has no room for them now, and
    ValidationError where it never has for one client; the run has ended then.
    """
    size = BYTES_OF_A_SCORE * run.scores + BYTES_OF_A_PROMPT_SCORE * run.prompt_scores - FREE
    if size > services().body_budget.most_of_one:
        run.refuse(ValidationError(TOO_MANY, field))
    if size > 0 and not grow_body(request, size):
        run.refuse(Overloaded(BODIES_FULL))
