"""A runner that computes nothing: each row gets a scripted token, and every failure can be injected."""

from __future__ import annotations

from engine.model.choice import Choice


class ScriptedRunner:
    """Stands in for ModelRunner; the arguments of its constructor are ignored.

    on_run: called before each step with its plan; it may raise, block or turn a clock. choose: from a sequence to its
    Choice, `token` without end by default. bad: blocks that it says are not finite.
    """

    ahead = drafts = 0

    def __init__(self, *args, **kwargs):
        self.on_run = lambda plan: None
        self.on_begin = lambda sequence: None
        self.choose = lambda sequence: Choice(self.token, True)
        self.first_logits = None
        self.token = 0
        self.steps = []
        self.bad = set()
        self.zeroed = []
        self.discarded = 0

    def begin(self, sequence):
        self.on_begin(sequence)

    def run(self, plan):
        self.on_run(plan)
        self.steps.append([(sequence.request.request_id, count) for sequence, count in plan.rows])
        done = [s for s, count in plan.rows if s.num_computed + count == len(s.token_ids)]
        return [(sequence, self.choose(sequence)) for sequence in done]

    def logits(self, sequence):
        """Return zeros where the test has set nothing else; a test without them does not pay for torch."""
        if self.first_logits is None:
            import torch

            self.first_logits = torch.zeros(1, 8)
        return self.first_logits

    def check(self, probe):
        pass

    def zero(self, blocks):
        self.zeroed += blocks

    def not_finite(self, blocks):
        return [block for block in blocks if block in self.bad]

    def discard(self):
        self.discarded += 1


class LaunchingRunner(ScriptedRunner):
    """The same for steps that are launched one ahead.

    on_collect: called with the step whose tokens are read; on_choose: with the one whose tokens are to be chosen.
    """

    ahead = 1

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.on_collect = self.on_choose = lambda launched: None

    def run(self, plan):
        launched = self.launch(plan)
        launched.choose()
        return [(sequence, choice) for sequence, _, choice in launched.collect()]

    def launch(self, plan):
        self.on_run(plan)
        self.steps.append([(sequence.request.request_id, count) for sequence, count in plan.rows])
        done = [sequence for sequence, count in plan.rows if count == sequence.remaining]
        return ScriptedStep(self, [(sequence, sequence.order) for sequence in done])


class ScriptedStep:
    """A step whose tokens are chosen when they are read."""

    def __init__(self, runner, sequences):
        self.runner, self.sequences = runner, sequences

    def choose(self):
        self.runner.on_choose(self)

    def collect(self):
        self.runner.on_collect(self)
        return [(sequence, order, self.runner.choose(sequence)) for sequence, order in self.sequences]
