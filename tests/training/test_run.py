import csv
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from diorama.checkpoints import read_tensors
from diorama.errors import CheckpointError, InputError
from diorama.training import Run, RunConfig
from diorama.training.log import read_rows
from diorama.training.states import checkpoint_folders

SCRIPT = Path(__file__).with_name("tiny_run.py")
TINY = runpy.run_path(str(SCRIPT))
train, data, loss_of, model = TINY["train"], TINY["data"], TINY["loss_of"], TINY["model"]


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over tensors hang on the number of threads in their last digit; the processes below have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_of(out, *without):
    rows = read_rows(out / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in ("seconds", *without)} for row in rows]


def start(out, *arguments, **environment):
    command = [sys.executable, "-W", "error", str(SCRIPT), str(out), *arguments]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stderr=subprocess.PIPE)


def run_once(out, network=None, config=None, batches=data, **options):
    run = Run(out, network or model(0.0), config or RunConfig(steps=2), device="cpu", progress="silent", **options)
    for batch in run.batches(batches):
        run.step(*loss_of(run.model, batch))
    return run


def test_a_killed_run_resumes_to_the_same_curve_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole)
    kill_at = random.randint(2, TINY["STEPS"] - 5)
    process = start(killed, "pause=0.05")
    while len(read_rows(killed / "metrics.jsonl")) < kill_at:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert kill_at <= rows_of(killed)[-1]["step"] < TINY["STEPS"]

    train(killed)

    assert rows_of(killed) == rows_of(whole), f"killed at step {kill_at}"
    assert [row["step"] for row in rows_of(killed)] == list(range(1, TINY["STEPS"] + 1))
    with (killed / "metrics.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [row["loss"] for row in rows_of(whole)]
    last = [checkpoint_folders(out)[-1] for out in (whole, killed)]
    for name in ("model.safetensors", "ema.safetensors"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes()


def test_two_processes_give_the_curve_of_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        start(tmp_path / "two", "dropout=0.0", "accumulation=2", RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(2)
    ]
    train(tmp_path / "one", dropout=0.0)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    draws = ("python", "numpy", "torch")
    one, two = rows_of(tmp_path / "one", *draws), rows_of(tmp_path / "two", *draws)
    assert len(one) == len(two) == TINY["STEPS"]
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)  # only the order of float32 sums differs


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_changes_memory_and_not_the_result(tmp_path, accumulation):
    draws = ("python", "numpy", "torch")
    train(tmp_path / "whole", dropout=0.0)
    train(tmp_path / "parts", dropout=0.0, accumulation=accumulation)
    for ours, theirs in zip(rows_of(tmp_path / "whole", *draws), rows_of(tmp_path / "parts", *draws), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_the_gradient_is_the_sum_over_the_count_of_the_step_and_no_mean_of_means(tmp_path):
    network = model(0.0)
    batch = data(0)
    loss_sum, tokens = loss_of(network, batch)
    (loss_sum / tokens).backward()
    wanted = torch.stack([p.grad.norm() for p in network.parameters()]).norm().item()
    halves = [loss_of(network, {k: v[rows] for k, v in batch.items()}) for rows in (slice(0, 4), slice(4, 8))]
    naive = sum((loss.detach() / count).item() for loss, count in halves) / 2

    run_once(tmp_path, config=RunConfig(steps=1, accumulation=2))

    (row,) = rows_of(tmp_path)
    assert row["gradient_norm"] == pytest.approx(wanted, rel=1e-5)
    assert row["loss"] == pytest.approx((loss_sum.detach() / tokens).item(), rel=1e-6)
    assert row["loss"] != pytest.approx(naive, rel=1e-3)
    assert row["tokens"] == int(tokens)


def test_the_update_is_that_of_adamw(tmp_path):
    ours, theirs = model(0.0), model(0.0)
    config = RunConfig(steps=3, clip=None, warmup=0, schedule="constant", weight_decay=0.1)
    run_once(tmp_path, ours, config)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
    )
    for step in range(3):
        loss_sum, tokens = loss_of(theirs, data(step))
        (loss_sum / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_evaluation_between_steps_does_not_change_a_resumed_curve(tmp_path):
    def train_with_evaluation(out, stop_after):
        network = model()
        run = Run(out, network, RunConfig(steps=12, log_every=1, save_every=4), device="cpu", progress="silent")
        for batch in run.batches(data):
            run.step(*loss_of(run.model, batch))
            if run.step_number % 4 == 0:
                run.log({"probe": torch.rand(()).item()})
            if run.step_number == stop_after:
                break

    train_with_evaluation(tmp_path / "whole", None)
    train_with_evaluation(tmp_path / "broken", 10)
    train_with_evaluation(tmp_path / "broken", None)
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")
    assert sum("probe" in row for row in rows_of(tmp_path / "whole")) == 3


def test_frozen_parts_are_left_out_of_the_optimizer_and_of_trainable_checkpoints(tmp_path):
    network = model()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    config = RunConfig(steps=4, save_every=2, trainable_only=True)
    run = Run(tmp_path, network, config, device="cpu", progress="silent")
    for batch in run.batches(data):
        assert network[1].training and not network[0].training
        run.step(*loss_of(run.model, batch))
    assert torch.equal(network[0].weight, before)
    stored = read_tensors(checkpoint_folders(tmp_path)[-1] / "model.safetensors")
    assert set(stored) == {name for name in network.state_dict() if not name.startswith("0.")}
    again = model()
    again[0].requires_grad_(False)
    assert Run(tmp_path, again, config, device="cpu", progress="silent").step_number == 4
    assert torch.equal(again[4].weight, network[4].weight)


def test_a_run_whose_parameters_are_all_frozen_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"frozen.*Unfreeze"):
        Run(tmp_path, model().requires_grad_(False), RunConfig(), device="cpu")


def test_groups_keep_their_own_rates_under_the_schedule(tmp_path):
    network = model(0.0)
    network[0].weight.requires_grad_(False)
    groups = [{"params": list(network[:4].parameters()), "lr": 0.0}, {"params": list(network[4].parameters())}]
    before = network[2].weight.clone(), network[4].weight.clone()
    run_once(tmp_path, network, RunConfig(steps=2, weight_decay=0.0), parameters=groups)
    assert torch.equal(network[2].weight, before[0]) and not torch.equal(network[4].weight, before[1])


def test_the_average_is_applied_inside_the_block_only(tmp_path):
    network = model(0.0)
    run = run_once(tmp_path, network, RunConfig(steps=5, ema=0.5))
    own = network[0].weight.clone()
    stored = read_tensors(checkpoint_folders(tmp_path)[-1] / "ema.safetensors")
    with run.ema_weights():
        assert torch.equal(network[0].weight, stored["0.weight"])
        assert not torch.equal(network[0].weight, own)
    assert torch.equal(network[0].weight, own)


def test_a_run_without_an_average_says_so(tmp_path):
    with pytest.raises(InputError, match="Set ema"):
        run_once(tmp_path).ema_weights()


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run_once(tmp_path, config=RunConfig(steps=10, save_every=2, keep=3))
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == [f"step-{n:08d}" for n in (6, 8, 10)]


def test_leftovers_of_a_killed_save_are_ignored_and_removed(tmp_path):
    run_once(tmp_path, config=RunConfig(steps=2, save_every=2))
    partial = tmp_path / "checkpoints" / ".step-00000004.abc.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    run = run_once(tmp_path, config=RunConfig(steps=3, save_every=2))
    assert run.step_number == 3 and not partial.exists()


def test_a_damaged_checkpoint_is_named(tmp_path):
    run_once(tmp_path)
    (checkpoint_folders(tmp_path)[-1] / "state.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be resumed.*Delete that folder"):
        run_once(tmp_path)


def test_another_model_is_refused(tmp_path):
    run_once(tmp_path)
    with pytest.raises(CheckpointError, match=r"another model.*0\.weight"):
        Run(tmp_path, nn.Sequential(nn.Linear(6, 17), nn.Linear(17, 1)), RunConfig(steps=2), device="cpu")


def test_changed_settings_are_refused_and_more_steps_are_not(tmp_path):
    run_once(tmp_path)
    with pytest.raises(InputError, match=r"learning_rate 0.001, now 0.1"):
        Run(tmp_path, model(), RunConfig(steps=2, learning_rate=0.1), device="cpu")
    assert run_once(tmp_path, config=RunConfig(steps=4)).step_number == 4


def test_starting_over_where_a_run_lies_is_refused(tmp_path):
    run_once(tmp_path)
    with pytest.raises(InputError, match="already holds a run at step-00000002"):
        Run(tmp_path, model(), RunConfig(steps=2), resume=False, device="cpu")


def test_the_settings_are_saved_with_the_run(tmp_path):
    @dataclass
    class Settings:
        frames: int = 8
        folder: Path = Path("clips")

    run_once(tmp_path, settings=Settings())
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert content["settings"] == {"frames": 8, "folder": "clips"}
    assert RunConfig(**content["run"]) == RunConfig(steps=2)


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_change(tmp_path):
    network = model(0.0)
    run = Run(tmp_path, network, RunConfig(steps=2), device="cpu", progress="silent")
    before = network[0].weight.clone()
    with pytest.raises(InputError, match=r"step 1 the loss is nan"):
        for batch in run.batches(data):
            loss_sum, tokens = loss_of(run.model, batch)
            run.step(loss_sum * float("nan"), tokens)
    assert torch.equal(network[0].weight, before)


def test_a_step_that_counts_nothing_is_refused(tmp_path):
    run = Run(tmp_path, model(), RunConfig(steps=2), device="cpu", progress="silent")
    with pytest.raises(InputError, match="0 tokens"):
        for batch in run.batches(data):
            run.step(loss_of(run.model, batch)[0] * 0, 0)


def test_a_batch_without_a_step_is_noticed(tmp_path):
    run = Run(tmp_path, model(), RunConfig(steps=2), device="cpu", progress="silent")
    with pytest.raises(RuntimeError, match=r"run\.step once"):
        list(run.batches(data))


def test_bf16_trains_and_leaves_the_weights_in_float32(tmp_path):
    network = model(0.0)
    run_once(tmp_path, network, RunConfig(steps=20, precision="bf16", learning_rate=1e-2, log_every=1))
    losses = [row["loss"] for row in rows_of(tmp_path)]
    assert losses[-1] < losses[0] and network[0].weight.dtype == torch.float32


def test_a_run_may_follow_another_with_other_precision_on_the_same_model(tmp_path):
    network = model(0.0)
    run_once(tmp_path / "a", network, RunConfig(steps=2, precision="bf16"))
    run_once(tmp_path / "b", network, RunConfig(steps=2))
    assert network(torch.zeros(1, 6)).dtype == torch.float32
    reference = model(0.0)
    reference.load_state_dict(network.state_dict())
    x = torch.randn(4, 6)
    assert torch.equal(network(x), reference(x))


def test_metrics_are_averaged_by_tokens(tmp_path):
    run = Run(tmp_path, model(), RunConfig(steps=1, accumulation=2), device="cpu", progress="silent")
    for tokens, accuracy, batch in zip((1, 3), (0.0, 1.0), run.batches(data), strict=False):
        run.step(loss_of(run.model, batch)[0], tokens, {"accuracy": accuracy})
    assert rows_of(tmp_path)[0]["accuracy"] == pytest.approx(0.75)


def test_a_dataset_is_shuffled_by_seed_and_epoch_and_resumed(tmp_path):
    dataset = [{"x": torch.full((6,), float(i)), "index": i} for i in range(10)]

    def seen(out, steps):
        config = RunConfig(steps=steps, schedule="constant", warmup=0)
        run = Run(out, model(0.0), config, device="cpu", progress="silent")
        found = []
        for batch in run.batches(dataset, batch_size=4):
            found += batch["index"].tolist()
            run.step(run.model(batch["x"]).square().sum(), 4)
        return found

    whole = seen(tmp_path / "whole", 5)
    assert sorted(whole[:10]) == sorted(whole[10:]) == list(range(10)) and whole[:10] != whole[10:]
    assert seen(tmp_path / "parts", 2) + seen(tmp_path / "parts", 5) == whole


def test_an_unknown_device_is_refused(tmp_path):
    with pytest.raises(InputError, match="'gpu' is unknown"):
        Run(tmp_path, model(), RunConfig(), device="gpu")


def test_progress_is_plain_lines_on_stderr_when_it_is_no_terminal(tmp_path, capfd):
    run = Run(tmp_path, model(), RunConfig(steps=2), device="cpu")
    for batch in run.batches(data):
        run.step(*loss_of(run.model, batch))
    captured = capfd.readouterr()
    assert captured.out == "" and "step 2/2  loss" in captured.err


def test_accumulation_asked_of_accelerate_does_not_divide_twice(tmp_path, monkeypatch):
    run_once(tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    run_once(tmp_path / "asked")
    assert rows_of(tmp_path / "asked") == rows_of(tmp_path / "plain")


def test_worker_processes_do_not_change_the_curve(tmp_path):
    dataset = [(torch.randn(6, generator=torch.Generator().manual_seed(i)), torch.tensor(1.0)) for i in range(10)]
    for workers in (0, 1):
        run = Run(tmp_path / str(workers), model(), RunConfig(steps=5, log_every=1), device="cpu", progress="silent")
        for x, y in run.batches(dataset, batch_size=4, workers=workers):
            run.step((run.model(x).squeeze(-1) - y).square().sum(), len(x))
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "0")


@pytest.mark.parametrize(("given", "says"), [([1, 2], "needs a `batch_size`"), ([], "has items")])
def test_data_that_cannot_be_batched_is_named(tmp_path, given, says):
    run = Run(tmp_path, model(), RunConfig(steps=2), device="cpu", progress="silent")
    with pytest.raises(InputError, match=says):
        next(run.batches(given, batch_size=None if given else 4))


def test_progress_on_a_terminal_is_a_bar_on_stderr(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = Run(tmp_path, model(), RunConfig(steps=2), device="cpu")
    for batch in run.batches(data):
        run.step(*loss_of(run.model, batch))
    captured = capfd.readouterr()
    assert captured.out == "" and "2/2" in captured.err and "loss" in captured.err
