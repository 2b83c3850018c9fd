"""Measured numbers with their uncertainty, and claims that are checked against them."""

from diorama.metrics.intervals import (
    Interval,
    auroc,
    average_ranks,
    bootstrap,
    bootstrap_statistic,
    paired_difference,
    proportion,
    spearman,
)

__all__ = [
    "Interval",
    "auroc",
    "average_ranks",
    "bootstrap",
    "bootstrap_statistic",
    "paired_difference",
    "proportion",
    "spearman",
]
