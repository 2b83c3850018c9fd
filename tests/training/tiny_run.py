"""A small training that the tests start as a process of its own: python tiny_run.py OUT [key=value ...]."""

import random
import sys
import time

import numpy as np
import torch
from torch import nn

from diorama.training import Run, RunConfig

STEPS = 30


def model(dropout=0.2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(dropout), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1))


def data(step):
    """Eight rows, each with its own number of counted positions, so a mean of means would be another gradient."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 5, 6, generator=generator)
    counted = torch.arange(5) < torch.randint(1, 6, (8, 1), generator=generator)
    return {"x": x, "y": x.sum(-1), "counted": counted}


def loss_of(network, batch):
    error = (network(batch["x"]).squeeze(-1) - batch["y"]) ** 2
    return (error * batch["counted"]).sum(), batch["counted"].sum()


def train(out, *, dropout=0.2, pause=0.0, **settings):
    """Train and return the run; the logged draws show whether each generator resumed where it was."""
    config = RunConfig(**{"steps": STEPS, "log_every": 1, "save_every": 4, "ema": 0.9, **settings})
    run = Run(out, model(dropout), config, device="cpu", progress="silent")
    for batch in run.batches(data):
        loss_sum, tokens = loss_of(run.model, batch)
        draws = {"python": random.random(), "numpy": np.random.rand(), "torch": torch.rand(())}
        run.step(loss_sum, tokens, draws)
        time.sleep(pause)
    return run


if __name__ == "__main__":
    pairs = (argument.split("=") for argument in sys.argv[2:])
    train(sys.argv[1], **{key: float(value) if "." in value else int(value) for key, value in pairs})
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
