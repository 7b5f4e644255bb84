"""Guidance in a span of levels only: what is evaluated, counted, computed, and refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.config.method import Method
from pipeline.diffusion.guidance import guided
from pipeline.models.loading import LatentDiffusion
from pipeline.plan.fingerprint import fingerprint_inputs
from pipeline.sizing.costs import evaluations
from tests.parts import counted, decoded_latents, encoded_part, make_config, make_prepared

SPAN = [0.3, 0.6]  # of ten steps: the levels 3 to 6


def settings(**others: Any) -> dict[str, Any]:
    fixed = {"steps": 10, "encode_ratio": 0.8, "guidance_scale": 3.0}
    return fixed | {"guidance_interval": SPAN} | others


def test_the_negative_half_is_evaluated_inside_the_span_only(tiny_model: LatentDiffusion) -> None:
    """Rows of the calls, the count in the row, and the planned count agree."""
    config = make_config(**settings())
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    with counted(tiny_model) as rows:
        decoded_latents(tiny_model, part, config)
    assert rows == [1, 1, 2, 2, 2, 2, 1, 1]  # from level 8 down to 1
    assert part.samples[0].edits[0].num_evals_decode == sum(rows)
    assert evaluations(config.method)["decode"] == sum(rows)


def test_the_span_decides_between_the_two_predictions(tiny_model: LatentDiffusion) -> None:
    """At each level the result is that of full guidance, or that of none, bit for bit."""
    text, negative = tiny_model.text.encode(["a cat"]), tiny_model.text.encode([""])
    scale, plain = torch.tensor([3.0]), torch.tensor([1.0])
    method = Method(**settings())
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    of_span = guided(tiny_model.denoiser, text, negative, scale, method.is_guided_at)
    always = guided(tiny_model.denoiser, text, negative, scale)
    never = guided(tiny_model.denoiser, text, negative, plain)
    with torch.inference_mode():
        for level in tiny_model.schedule.levels(10)[1:]:
            wanted = always if 3 <= level.index <= 6 else never
            assert torch.equal(of_span(latent, level), wanted(latent, level)), level.index


def test_the_whole_schedule_is_the_same_as_no_span(tiny_model: LatentDiffusion) -> None:
    """`[0, 1]` and null give equal latents."""
    found = []
    for span in (None, [0.0, 1.0]):
        config = make_config(**settings(guidance_interval=span))
        part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
        found.append(decoded_latents(tiny_model, part, config))
    assert torch.equal(*found)


def test_features_are_not_reused_across_the_spans_ends(tiny_model: LatentDiffusion) -> None:
    """Where the negative half comes or goes, the whole network is computed anew."""
    config = make_config(**settings(reuse={"interval": 4}, solver="dpmpp_2m"))
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    with counted(tiny_model) as rows:
        latents = decoded_latents(tiny_model, part, config)
    assert rows == [1, 2, 2, 1]  # levels 8, 6, 4 and 2
    assert latents.isfinite().all()


def test_the_span_is_in_the_fingerprint_where_it_is_set() -> None:
    """An output from before the key exists has the same fingerprint as one that sets null."""
    with_span = fingerprint_inputs(make_config(**settings()), "r", "cpu")
    without = fingerprint_inputs(make_config(**settings(guidance_interval=None)), "r", "cpu")
    assert with_span["method"]["guidance_interval"] == SPAN
    assert "guidance_interval" not in without["method"]


@pytest.mark.parametrize("span", [[0.6, 0.3], [0.5, 0.5], [-0.1, 0.5], [0.5, 1.1], [0.5], 0.5])
def test_a_span_is_two_ascending_shares(span: Any) -> None:
    """The error names the key."""
    with pytest.raises(ValueError, match="guidance_interval"):
        make_config(**settings(guidance_interval=span))
