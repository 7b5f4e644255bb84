"""The training loop of the demo model: workers, checkpoints, resume, moving average.

All stages use this loop. Data and noise are functions of (seed, step), so a resumed run gets the
same data as an uninterrupted one. The learning rate depends on the share of the budget used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jobs.train_demo.progress import Progress, StageSettings, draw_curves, log_losses

# (step, share of the budget used, generator) -> named losses of this worker's part of the batch.
LossFunction = Callable[[int, float, torch.Generator], dict[str, Tensor]]


def worker() -> tuple[int, int]:
    """(rank of this process, number of processes that train together)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wait_for_workers() -> None:
    """Returns when all processes have called this."""
    if dist.is_initialized():
        dist.barrier()


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's weights."""
    return next(network.parameters()).device


class MovingAverage:
    """An exponential moving average of a network's parameters; its decay grows at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone().float() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves the averages towards the network's current parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(list(self.weights.values()), parameters, 1 - decay)

    def copy_to(self, network: nn.Module) -> None:
        """Writes the averages into a network of the same structure."""
        network.load_state_dict(self.weights, strict=False)


def train(
    network: nn.Module,
    losses_at: LossFunction,
    settings: StageSettings,
    folder: Path,
    *,
    resume: bool,
    after_checkpoint: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Trains a network until its budget is used, and leaves the (averaged) weights in it.

    Args:
        network: the trained parameters, in float32.
        losses_at: named losses of one batch; "loss" is minimized. The generator is seeded by step
            and worker.
        settings: of the stage.
        folder: for checkpoint.pt, losses.jsonl and losses.png.
        resume: continue from checkpoint.pt, if it exists.
        after_checkpoint: called with the averaged network and the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = MovingAverage(network, settings.ema_decay) if settings.ema_decay else None
    progress = Progress(settings)
    if resume and (folder / "checkpoint.pt").exists():
        _load_checkpoint(folder, network, optimizer, average, progress)
    generator = torch.Generator()
    rank, world = worker()
    last_saved_s, means, device_type, fraction = (
        progress.elapsed_s(),
        _Means(),
        device_of(network).type,
        0.0,
    )
    while fraction < 1:
        generator.manual_seed((settings.seed * 1_000_003 + progress.step) * 64 + rank)
        for group in optimizer.param_groups:
            group["lr"] = progress.learning_rate(fraction)
        with torch.autocast(device_type, torch.bfloat16, enabled=settings.bf16):
            losses = losses_at(progress.step, fraction, generator)
        losses["loss"].backward()  # type: ignore[no-untyped-call]  # torch 2.13 has no types for it
        progress.step += 1
        fraction = _share_gradients(network, progress.fraction(), rank, world)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update(network, progress.step)
        means.add(losses)
        if rank:
            continue
        if means.count == 50 or fraction >= 1:
            log_losses(folder, progress, means.take())
        if progress.elapsed_s() - last_saved_s > 60 * settings.checkpoint_minutes or fraction >= 1:
            last_saved_s = progress.elapsed_s()
            _save_checkpoint(folder, network, optimizer, average, progress)
            draw_curves(folder)
            if after_checkpoint:
                _with_average(network, average, lambda: after_checkpoint(network, progress.step))
    if average:
        average.copy_to(network)
    return network


class _Means:
    """Means of named losses since the last ``take``."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        self.count += 1

    def take(self) -> dict[str, float]:
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


def _share_gradients(network: nn.Module, fraction: float, rank: int, world: int) -> float:
    """Averages gradients over workers, in place; returns the first worker's share of the budget.

    All workers must use the same share, else one would stop while another waits for it.
    """
    if world == 1:
        return fraction
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    clock = gradients[0].new_tensor([fraction if rank == 0 else 0.0])
    joined = torch.cat([*(gradient.flatten() for gradient in gradients), clock])
    dist.all_reduce(joined)
    sizes = [*(gradient.numel() for gradient in gradients), 1]
    *parts, total = torch.split(joined, sizes)
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient) / world)
    return float(total)


def _with_average(
    network: nn.Module, average: MovingAverage | None, action: Callable[[], None]
) -> None:
    """Runs an action while the network has the averaged weights."""
    present = {name: p.detach().clone() for name, p in network.named_parameters()}
    if average:
        average.copy_to(network)
    action()
    network.load_state_dict(present, strict=False)


def _save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    progress: Progress,
) -> None:
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.weights if average else None,
        "step": progress.step,
        "elapsed_s": progress.elapsed_s(),
    }
    torch.save(state, folder / "checkpoint.tmp")
    (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")


def _load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    progress: Progress,
) -> None:
    state = torch.load(folder / "checkpoint.pt", map_location=device_of(network), weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    if average and state["average"] is not None:
        average.weights = state["average"]
    progress.restore(state["step"], state["elapsed_s"])
    print(f"resumed at step {progress.step}, {progress.elapsed_s() / 60:.1f} min", flush=True)
