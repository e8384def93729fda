"""Where the schemas of requests are rewritten: small ones in their request's thread, others in a process.

Threads that rewrite for long would each keep the interpreter lock for a switch interval between any two calls of the
engine, so that everybody's answers would pause.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from edge import turns
from engine.text.compile_queue import CompileQueue
from engine.text.grammar_trials import Trials
from engine.text.schema.elsewhere import Job, Outcome, outcome_of
from engine.wanted import Wanted
from routes.chat.schemas import Rewriter

QUICK_WORK = 300  # of the schemas of one request, about ten microseconds each
MOST = 32  # schemas that wait for the process, each with a thread
SECONDS = 10.0  # that one schema may take, or wait until others are done


class Rewriting:
    """Rewrites the schemas of all requests. trials: the processes; one of them at most is taken, so that small schemas,
    which they only try, find another.
    """

    def __init__(self, trials: Trials) -> None:
        self._trials, self._queue = trials, CompileQueue(1, MOST)

    def of_request(self, wanted: Wanted) -> Rewriter:
        """Return what rewrites the schemas of one request, in its thread, which waits for a process outside its turn.

        It raises as `CompileQueue.done` does.
        """
        quick = QUICK_WORK

        def rewriter(job: Job) -> Outcome:
            nonlocal quick
            if job.blame_seconds is None and quick > 0:
                given = min(quick, job.work)
                outcome = outcome_of(replace(job, work=given))
                quick = min(quick, quick - given + outcome.work)
                if outcome.work >= 0 or given == job.work:
                    return replace(outcome, work=job.work - given + outcome.work)
            turns.leave()
            outcome = self._queue.done(partial(self._trials.rewrite, job, SECONDS), wanted, SECONDS)
            turns.take()
            return outcome

        return rewriter

    def close(self) -> None:
        """End the thread."""
        self._queue.close()
