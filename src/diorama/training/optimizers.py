"""The optimizer of a run: AdamW, and Muon for the matrices that ask for it.

Muon (Jordan et al. 2024; `torch.optim.Muon`) replaces a matrix's momentum by the nearest orthogonal one. The inner
matrices of small transformers learn in half the steps with it; embeddings, heads, norms and biases stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diorama.training.config import RunConfig

MUON = "muon"
"""A parameter group with this key set to True is trained with Muon."""


def parameter_groups(
    model: nn.Module, config: RunConfig, *, muon: Sequence[nn.Module] = ()
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters: norms and biases without weight decay, the matrices inside the modules
    `muon` (the blocks of a transformer, say) for Muon, everything else for AdamW."""
    inner = {id(p) for block in muon for p in block.parameters() if p.ndim == 2}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in inner], "weight_decay": config.weight_decay, MUON: True},
        {"params": [p for p in trainable if p.ndim >= 2 and id(p) not in inner], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def modules_of(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """The modules of these classes inside a model, such as its transformer blocks."""
    return [part for part in model.modules() if isinstance(part, kinds)]


def build_optimizer(groups: Iterable[dict[str, Any]], config: RunConfig, *, fused: bool) -> torch.optim.Optimizer:
    """AdamW over the groups, or AdamW and Muon together where a group asks for Muon."""
    matrices = [{k: v for k, v in group.items() if k != MUON} for group in groups if group.get(MUON)]
    others = [{k: v for k, v in group.items() if k != MUON} for group in groups if not group.get(MUON)]
    parts: list[torch.optim.Optimizer] = []
    if others:
        parts.append(torch.optim.AdamW(others, lr=config.learning_rate, betas=config.betas, eps=config.eps,
                                       weight_decay=config.weight_decay, fused=fused))
    if matrices:
        # the update has the size of AdamW's, so that one learning rate serves both
        parts.append(torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay,
                                      adjust_lr_fn="match_rms_adamw"))
    return parts[0] if len(parts) == 1 else Together(parts)


class Together(torch.optim.Optimizer):
    """Several optimizers that step as one; its groups are theirs, in order."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], float | Tensor] | None = None) -> None:  # type: ignore[override]
        """One step of each part."""
        assert closure is None
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`. Raises ValueError for a state of other groups."""
        states = state_dict.get("parts", [])
        if len(states) != len(self.parts):
            raise ValueError(f"a state of {len(states)} optimizers for {len(self.parts)}")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
