"""Per-row LoRA equals merged weights; fine-tuning restores the weights afterwards."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.models.fine_tuning import fine_tuning
from pipeline.models.loading import LatentDiffusion
from pipeline.models.lora import LoraSites, adapted
from pipeline.models.micro_batch import MicroBatch


def drawn(sites: LoraSites, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random factors A and B that are far from zero."""
    return 0.3 * torch.randn(count, sum(sites.sizes), generator=generator)


def test_each_row_equals_a_network_with_merged_weights(
    tiny_model: LatentDiffusion, generator: torch.Generator, tolerance: dict
) -> None:
    """Row n equals the output of a network in which every projection is W + B_n A_n."""
    sites = LoraSites(tiny_model.unbatched.network, 2)
    factors = drawn(sites, 3, generator)
    latent = torch.randn(3, 4, 8, 8, generator=generator)
    level = tiny_model.schedule.level_at(0.5)
    with torch.no_grad():
        text = tiny_model.text.encode(["a cat", "a dog", "a red dog"])
        plain = tiny_model.unbatched(latent, level, text)
        with sites.attached(factors):
            ours = tiny_model.unbatched(latent, level, text)
        for n in range(3):
            merged = copy.deepcopy(tiny_model.unbatched)
            pieces = iter(factors[n].split(sites.sizes))
            for module in LoraSites(merged.network, 2).modules:
                a = next(pieces).view(2, module.in_features)
                b = next(pieces).view(module.out_features, 2)
                module.weight.add_(b @ a)
            theirs = merged(latent[n : n + 1], level, text[n : n + 1])
            assert (ours[n] - theirs[0]).abs().max() / theirs.abs().max() < tolerance[torch.float32]
        assert (ours - plain).abs().max() > 0.01
        assert torch.equal(tiny_model.unbatched(latent, level, text), plain)


def test_all_projections_of_the_attention_are_changed(tiny_model: LatentDiffusion) -> None:
    """LoRA changes query, key, value and output of every self-attention and cross-attention."""
    network = tiny_model.unbatched.network
    attentions = [m for m in network.modules() if type(m).__name__ == "Attention"]
    assert len(LoraSites(network, 1).modules) == 4 * len(attentions)


def test_initial_factors_change_nothing_and_depend_on_the_seed(
    tiny_model: LatentDiffusion, generator: torch.Generator
) -> None:
    """B starts at zero, so a fit starts at the unchanged network; A depends on the seed."""
    sites = LoraSites(tiny_model.unbatched.network, 2)
    factors = sites.draw([5, 6])
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    level = tiny_model.schedule.level_at(0.5)
    with torch.no_grad():
        text = tiny_model.text.encode(["a cat", "a dog"])
        with sites.attached(factors):
            changed = tiny_model.unbatched(latent, level, text)
        assert torch.equal(changed, tiny_model.unbatched(latent, level, text))
    assert torch.equal(factors[1], sites.draw([6])[0])
    assert not torch.equal(factors[0], factors[1])


@pytest.mark.parametrize("size", [1, 3, 8])
def test_micro_batches_keep_each_rows_factors(
    tiny_model: LatentDiffusion, generator: torch.Generator, tolerance: dict, size: int
) -> None:
    """With twice as many rows as factors, as in guidance, row i gets the factors i modulo N."""
    sites = LoraSites(tiny_model.unbatched.network, 2)
    factors = drawn(sites, 3, generator)
    latent = torch.randn(6, 4, 8, 8, generator=generator)
    level = tiny_model.schedule.level_at(0.5)
    with torch.no_grad():
        text = tiny_model.text.encode(["a cat", "a dog", "a red dog"] * 2)
        with sites.attached(factors.repeat(2, 1)):
            theirs = tiny_model.unbatched(latent, level, text)
        ours = adapted(tiny_model.unbatched, sites, factors, MicroBatch(size))(latent, level, text)
    assert (ours - theirs).abs().max() / theirs.abs().max() < tolerance[torch.float32]


def test_too_large_a_rank_is_an_error(tiny_model: LatentDiffusion) -> None:
    """The error names the key, the value and what the model allows."""
    with pytest.raises(ValueError, match=r"method\.imagic\.rank=64: this model allows 1 to 16"):
        LoraSites(tiny_model.unbatched.network, 64)


def test_fine_tuning_restores_the_weights(tiny_model: LatentDiffusion) -> None:
    """Weights are restored exactly, without gradients, even after an exception."""
    network = tiny_model.unbatched.network
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def interrupted() -> None:
        with fine_tuning(network) as parameters, torch.no_grad():
            for parameter in parameters:
                assert parameter.requires_grad
                parameter.add_(1.0)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        interrupted()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())
