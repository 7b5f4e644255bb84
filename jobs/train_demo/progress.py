"""The settings, progress and losses of a training stage."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass
class StageSettings:
    """The settings of one stage. The nearer limit (minutes or steps) ends it and sets the decay."""

    minutes: float  # wall clock, over all resumed runs
    steps: int  # 0: no limit
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 0.0
    ema_decay: float = 0.0  # 0: no moving average
    checkpoint_minutes: float = 3.0
    bf16: bool = True
    seed: int = 0

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> StageSettings:
        """The settings in a stage's section of the config; the section has further keys."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


class Progress:
    """Counts steps and seconds of a stage, over all resumed runs."""

    def __init__(self, settings: StageSettings) -> None:
        self.settings = settings
        self.step = 0
        self._spent_s = 0.0
        self._started = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds of training so far, including earlier runs."""
        return self._spent_s + time.monotonic() - self._started

    def restore(self, step: int, elapsed_s: float) -> None:
        """Continues from a checkpoint."""
        self.step, self._spent_s, self._started = step, elapsed_s, time.monotonic()

    def fraction(self) -> float:
        """The share of the budget used, in [0, 1]."""
        by_time = self.elapsed_s() / (60 * self.settings.minutes)
        by_steps = self.step / self.settings.steps if self.settings.steps else 0.0
        return min(1.0, max(by_time, by_steps))

    def learning_rate(self, fraction: float) -> float:
        """Linear warm-up over steps, and a cosine over the budget down to 1 %."""
        warmup = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * fraction))
        return self.settings.learning_rate * warmup * (0.01 + 0.99 * cosine)


def log_losses(folder: Path, progress: Progress, means: dict[str, float]) -> None:
    """Appends mean losses to losses.jsonl and prints them."""
    line = {"step": progress.step, "elapsed_s": round(progress.elapsed_s(), 1), **means}
    with (folder / "losses.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    seen_per_s = progress.step * progress.settings.batch_size / progress.elapsed_s()
    figures = "  ".join(f"{name} {value:.5f}" for name, value in means.items())
    print(
        f"{time.strftime('%H:%M:%S')}  {progress.fraction():6.1%}  step {progress.step}  "
        f"{seen_per_s:.0f}/s  lr {progress.learning_rate(progress.fraction()):.1e}  {figures}",
        flush=True,
    )


def draw_curves(folder: Path) -> None:
    """Draws losses.jsonl as losses.png: one panel for each named loss over steps, log scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = folder / "losses.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    names = sorted({name for row in rows for name in row} - {"step", "elapsed_s"})
    if not names:
        return
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot(
            [row["step"] for row in rows if name in row], [row[name] for row in rows if name in row]
        )
        axis.set(title=name, xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "losses.png", dpi=80)
    pyplot.close(figure)
