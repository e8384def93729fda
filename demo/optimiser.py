"""The optimiser of both trainings: Muon for the hidden matrices, AdamW for everything else.

Muon (Jordan et al., 2024) orthogonalises the update of a matrix; with it the training left the plateau on which colour
is learned and shape is not sooner.
"""

import re
from collections.abc import Iterable

import torch
from torch import nn

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.98), 0.05, 1.0
MUON_RATE, MOMENTUM = 0.01, 0.95
HIDDEN = re.compile(r"\b(layers|blocks)\.|\bmerger\.")


class Optimiser:
    """Two optimisers that step together; `adam_rate` is AdamW's peak, Muon's is MUON_RATE."""

    def __init__(self, modules: Iterable[nn.Module], adam_rate: float) -> None:
        named = {id(weight): (name, weight) for module in modules for name, weight in module.named_parameters()}
        matrices = [weight for name, weight in named.values() if weight.ndim == 2 and HIDDEN.search(name)]
        chosen = {id(weight) for weight in matrices}
        others = [weight for key, (_, weight) in named.items() if key not in chosen]
        self.weights = matrices + others
        muon = torch.optim.Muon(
            matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(others, lr=adam_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
        self.parts: tuple[tuple[torch.optim.Optimizer, float], ...] = ((muon, MUON_RATE), (adam, adam_rate))

    def step(self, loss: torch.Tensor, share: float) -> None:
        """Take one step down `loss` at `share` of the peak rates, the gradient clipped to CLIP."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, CLIP)
        for part, rate in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * share
            part.step()
            part.zero_grad()
