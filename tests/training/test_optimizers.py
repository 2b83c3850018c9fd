"""AdamW and Muon together: which parameters go where, one schedule, and states that resume exactly."""

import pytest
import torch
from torch import nn

from diorama.training import Run, RunConfig
from diorama.training.optimizers import Together, build_optimizer, parameter_groups

CONFIG = RunConfig(learning_rate=1e-2, weight_decay=0.1, steps=8, save_every=4, log_every=1)


def net():
    torch.manual_seed(0)
    return nn.ModuleDict({"embed": nn.Embedding(5, 8), "block": nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)),
                          "head": nn.Linear(8, 3)})


def test_only_the_matrices_of_the_blocks_go_to_muon():
    model = net()
    groups = parameter_groups(model, CONFIG, muon=[model["block"]])
    matrices = {id(model["block"][0].weight), id(model["block"][1].weight)}
    assert {id(p) for p in groups[0]["params"]} == matrices and groups[0]["muon"]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert all(p.ndim < 2 for p in groups[2]["params"]) and groups[2]["weight_decay"] == 0.0
    optimizer = build_optimizer(groups, CONFIG, fused=False)
    assert isinstance(optimizer, Together)
    assert [type(part) for part in optimizer.parts] == [torch.optim.AdamW, torch.optim.Muon]


def test_a_step_of_muon_is_orthogonal_and_of_the_size_of_adamw():
    weight = nn.Parameter(torch.zeros(32, 32))
    optimizer = build_optimizer([{"params": [weight], "weight_decay": 0.0, "muon": True}], CONFIG, fused=False)
    weight.grad = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach() / (0.2 * 32**0.5 * CONFIG.learning_rate))
    assert 0.6 < values.min() and values.max() < 1.3
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2 * CONFIG.learning_rate, rel=0.2)


def test_a_state_of_other_groups_is_refused():
    model = net()
    both = build_optimizer(parameter_groups(model, CONFIG, muon=[model["block"]]), CONFIG, fused=False)
    alone = build_optimizer(parameter_groups(model, CONFIG), CONFIG, fused=False)
    with pytest.raises(ValueError, match="optimizers"):
        both.load_state_dict(alone.state_dict())


def train(out, steps):
    model = net()
    run = Run(out, model, CONFIG if steps == 8 else RunConfig(**{**vars(CONFIG), "steps": 8}), device="cpu",
              parameters=parameter_groups(model, CONFIG, muon=[model["block"]]), progress="silent")
    losses = []
    for words in run.batches(lambda step: torch.randint(5, (4,), generator=torch.Generator().manual_seed(step))):
        loss = model["head"](model["block"](model["embed"](words))).logsumexp(-1).sum()
        run.step(loss, len(words))
        losses.append(loss.item())
        if run.step_number == steps:
            run.save()
            break
    return losses, [p.detach().clone() for p in model.parameters()]


def test_a_run_with_muon_resumes_exactly(tmp_path):
    whole, weights = train(tmp_path / "a", 8)
    first, _ = train(tmp_path / "b", 5)
    second, again = train(tmp_path / "b", 8)
    assert first + second == whole
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
