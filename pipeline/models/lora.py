"""LoRA with a set of factors for every row of a batch, so that many images are fitted at once.

Ours and not peft's: peft keeps one adapter a module and, where a batch mixes adapters, runs its
rows one adapter after the other and for inference only. Here each row has its own factors, and
one batched product serves them all, forward and backward.

# N rows, R rank, L tokens or pixels, I and O a projection's inputs and outputs, P values in all
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.schedule import Level
from pipeline.models.micro_batch import MicroBatch

# The projections of self-attention and cross-attention, by the names that diffusers gives them;
# those of the second line are the text's own in a transformer that attends to both at once.
PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)


class LoraSites:
    """Where a network takes low-rank changes, and how a row's factors lie in one flat vector."""

    def __init__(self, network: nn.Module, rank: int) -> None:
        """
        Args:
            network: with attention as diffusers builds it.
            rank: R, of every projection's change.

        Raises:
            ValueError: the network has no such projection, or the rank exceeds the smallest.
        """
        self.rank = rank
        self.modules = [
            module
            for name, module in network.named_modules()
            if name.endswith(PROJECTIONS) and isinstance(module, nn.Linear)
        ]
        if not self.modules:
            raise ValueError(f"{type(network).__name__} has no projection named {PROJECTIONS}")
        widest = min(min(m.in_features, m.out_features) for m in self.modules)
        if rank > widest:
            raise ValueError(f"method.imagic.rank={rank}: this model allows 1 to {widest}")
        self.sizes = [
            size
            for module in self.modules
            for size in (rank * module.in_features, rank * module.out_features)
        ]

    @property
    def num_values(self) -> int:
        """P: how many numbers the factors of one row are."""
        return sum(self.sizes)

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """Factors that change nothing yet: A uniform, B zero, as the LoRA paper begins.

        Args:
            seeds: one a row.

        Returns:
            (N, P) float32 on the CPU.

        Source: LoRA, arXiv:2106.09685, section 4.1; A's bounds are those of ``nn.Linear``.
        """
        rows = []
        for seed in seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            pieces = []
            for module in self.modules:
                bound = 1.0 / math.sqrt(module.in_features)
                uniform = torch.rand(self.rank * module.in_features, generator=generator)
                pieces += [(2.0 * uniform - 1.0) * bound]
                pieces += [torch.zeros(module.out_features * self.rank)]
            rows.append(torch.cat(pieces))
        return torch.stack(rows)

    @contextmanager
    def attached(self, factors: Tensor) -> Iterator[None]:
        """While it lasts, row n of whatever passes the network is changed by row n of ``factors``.

        Args:
            factors: (N, P). The network must then be called with N rows. Gradients reach them.
        """
        pieces = iter(factors.split(self.sizes, dim=1))
        hooks = []
        try:
            for module in self.modules:
                a_NRI = next(pieces).view(len(factors), self.rank, module.in_features)
                b_NOR = next(pieces).view(len(factors), module.out_features, self.rank)
                hooks.append(module.register_forward_hook(partial(_changed, a_NRI, b_NOR)))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _changed(
    a_NRI: Tensor, b_NOR: Tensor, module: nn.Module, inputs: tuple[Any, ...], out_NLO: Tensor
) -> Tensor:
    """W x + B A x, each row with its own A and B."""
    x_NLI = inputs[0]
    assert len(x_NLI) == len(a_NRI), f"{len(x_NLI)} rows, factors for {len(a_NRI)}"
    low_NLR = torch.bmm(x_NLI, a_NRI.to(x_NLI.dtype).mT)
    return out_NLO + torch.bmm(low_NLR, b_NOR.to(x_NLI.dtype).mT)


def adapted(
    denoiser: Denoiser, sites: LoraSites, factors: Tensor, micro_batch: MicroBatch
) -> Denoiser:
    """The denoiser with its rows' own factors, called with at most a micro-batch at a time.

    Args:
        denoiser: over the network of ``sites``, not in micro-batches of its own.
        sites: where the factors go.
        factors: (N, P). Called with a multiple of N rows (guidance doubles them), row i has the
            factors i modulo N.
        micro_batch: the stage's.
    """

    def call(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        owners = torch.arange(len(latent), device=latent.device) % len(factors)

        def some(rows: slice) -> Tensor:
            with sites.attached(factors[owners[rows]]):
                return denoiser(latent[rows], level, condition[rows])

        return torch.cat(micro_batch.over(len(latent), some))

    return call
