"""The network adapters: eps from any prediction, micro-batches, images and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition, Repeated
from pipeline.diffusion.schedule import Level
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.network import eps_from_v, eps_from_x0, in_micro_batches
from pipeline.stages.build import load_stages
from pipeline.stages.oom_retry import OomRetry
from tests.parts import make_config, required

LEVEL = Level(20, 381, 0.6, 0.8)


def test_eps_from_v_and_x0_invert_the_definitions(
    generator: torch.Generator, tolerance: dict
) -> None:
    """Given x = alpha x0 + sigma eps and v = alpha eps - sigma x0, eps is recovered."""
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=generator, dtype=torch.float64)
    x = 0.6 * x0 + 0.8 * eps
    from_v = eps_from_v(0.6 * eps - 0.8 * x0, x, LEVEL)
    from_x0 = eps_from_x0(x0, x, LEVEL)
    torch.testing.assert_close(from_v, eps, rtol=tolerance[torch.float64], atol=1e-12)
    torch.testing.assert_close(from_x0, eps, rtol=tolerance[torch.float64], atol=1e-12)


def test_clean_level_does_not_divide_by_zero() -> None:
    """At sigma 0 a slightly wrong x0 gives a small eps, not infinity."""
    clean = Level(0, 0, 1.0, 0.0)
    eps = eps_from_x0(torch.tensor([1.001]), torch.tensor([1.0]), clean, smallest_sigma=0.03)
    assert abs(float(eps)) < 0.04


class Recorded(TorchDispatchMode):
    """The names of the operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("timestep", [381, 380.5])
def test_a_call_of_the_network_copies_no_number_to_the_device(
    tiny_model: LatentDiffusion, timestep: float
) -> None:
    """Timestep and guidance scale are written there, of the types that a copy would have."""
    latent, condition = torch.zeros(2, 4, 8, 8), Condition(torch.zeros(2, 3, 4))
    level = Level(20, timestep, 0.6, 0.8)
    denoiser: Any = tiny_model.unbatched
    with Recorded() as operations:
        _, given, _ = denoiser.inputs(latent, level, condition)
        guided = condition.with_guidance(3.5).guidance
    assert operations.names.count("aten.full.default") == 2
    assert torch.equal(given, torch.as_tensor(timestep))
    assert given.dtype == torch.as_tensor(timestep).dtype
    assert required(guided).tolist() == [3.5, 3.5]


@pytest.mark.parametrize("num_rows", [1, 3, 5, 8, 11])
def test_micro_batches_keep_rows_and_conditions_together(num_rows: int) -> None:
    """Every row is computed with its own condition, in even calls of at most 4 rows."""
    calls: list[int] = []

    def network(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        calls.append(len(latent))
        return latent * condition.tokens[:, :1, :1, None]

    latent = torch.arange(num_rows, dtype=torch.float32).view(-1, 1, 1, 1) + 1.0
    condition = Condition(torch.arange(num_rows, dtype=torch.float32).view(-1, 1, 1) + 10.0)
    eps = in_micro_batches(network, MicroBatch(4))(latent, LEVEL, condition)
    assert eps.flatten().tolist() == [(n + 1.0) * (n + 10.0) for n in range(num_rows)]
    assert sum(calls) == num_rows
    assert max(calls) <= 4
    assert max(calls) - min(calls) <= 1


@pytest.mark.parametrize("pooled", [False, True])
def test_rows_of_a_repeated_condition_equal_those_of_a_full_copy(pooled: bool) -> None:
    """Any rows equal those of the fully repeated condition, with or without a pooled embedding."""
    tokens = torch.arange(3.0).view(3, 1, 1).expand(3, 2, 4)
    pooled_rows = torch.arange(3.0).view(3, 1) if pooled else None
    repeated = Repeated(tokens, pooled_rows, times=4)
    assert len(repeated) == 12
    whole = tokens.repeat_interleave(4, dim=0)
    for rows in (slice(0, 12), slice(2, 9), slice(11, 12), torch.tensor([7, 3, 3])):
        assert torch.equal(repeated[rows].tokens, whole[rows])
        assert (repeated[rows].pooled is not None) == pooled
        if pooled:
            assert torch.equal(required(repeated[rows].pooled), whole[rows][:, 0, :1])


def test_encoding_an_image_is_deterministic(tiny_model: LatentDiffusion) -> None:
    """The latent is the scaled mode of the VAE's distribution, the same each time."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        once, twice = (tiny_model.image_coder.encode([image]) for _ in range(2))
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255.0 * 2.0 - 1.0
        mean = tiny_model.image_coder.vae.encode(pixels).latent_dist.mean
    assert torch.equal(once, twice)
    torch.testing.assert_close(once, mean * 4.0, rtol=1e-4, atol=1e-5)


def test_pixels_are_rounded_and_clamped(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-1 becomes 0, 1 becomes 255, 0 becomes 128 (127.5 to even); other values are clamped."""
    values = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0])
    decoded = values.view(1, 1, 1, 6).expand(1, 3, 1, 6)
    monkeypatch.setattr(tiny_model.image_coder.vae, "decode", lambda *args, **kw: (decoded,))
    pixels = tiny_model.image_coder.decode(torch.zeros(1, 4, 1, 1))
    assert pixels.shape == (1, 1, 6, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]


def test_decoding_inverts_scale_and_shift(tiny_model: LatentDiffusion) -> None:
    """Decoding divides by the scale that encoding multiplies with, and adds the shift back."""
    seen = []
    images = tiny_model.image_coder.with_micro_batch(MicroBatch(8))
    images.shift = 0.5

    class Vae:
        device, dtype = torch.device("cpu"), torch.float32

        def decode(self, latent: Tensor, return_dict: bool) -> tuple[Tensor]:
            seen.append(latent)
            return (torch.zeros(1, 3, 4, 4),)

    image = np.full((32, 32, 3), 100, np.uint8)
    with torch.inference_mode():
        mode = images.vae.encode(torch.full((1, 3, 32, 32), 100 / 127.5 - 1.0)).latent_dist.mode()
        latent = images.encode([image])
    torch.testing.assert_close(latent, (mode - 0.5) * 4.0, rtol=1e-4, atol=1e-4)
    images.vae = Vae()
    images.decode(latent)
    torch.testing.assert_close(seen[0], mode, rtol=1e-4, atol=1e-4)


def test_texts_with_equal_tokens_are_encoded_once(tiny_model: LatentDiffusion) -> None:
    """Rows are in the order of the texts; texts with equal tokens share one row of the call."""
    calls = []
    hook = tiny_model.text.towers[0].encoder.register_forward_pre_hook(
        lambda module, args: calls.append(len(args[0]))
    )
    rows = tiny_model.text.encode(["a dog", "a cat", "A  DOG", "a dog", ""]).tokens
    hook.remove()
    assert calls == [3]
    assert rows.shape == (5, 77, 32)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0], rows[3])
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(tiny_model.text.encode(["a cat"]).tokens[0], rows[1])


def test_text_is_padded_as_in_stable_diffusion(tiny_model: LatentDiffusion) -> None:
    """Texts have a start token and are padded with end tokens, or truncated, to 77 tokens."""
    tokenizer = tiny_model.text.towers[0].tokenizer
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    (ids,) = tiny_model.text.token_ids("a dog")
    assert (len(ids), ids[0], set(ids[3:])) == (77, start, {end})
    (long,) = tiny_model.text.token_ids("dog " * 10_000)
    assert (len(long), long[-1]) == (77, end)
    assert tiny_model.text.truncation_note("caption", "dog " * 75) is None
    note = tiny_model.text.truncation_note("caption", "dog " * 10_000)
    assert note == "caption cut at 77 of 10002 tokens"


@pytest.mark.parametrize("text", ["", "\ud800", "日本語 🐕", "<|endoftext|>", "\0", "a" * 5000])
def test_any_text_can_be_encoded(tiny_model: LatentDiffusion, text: str) -> None:
    """No text raises an error, not even a lone surrogate."""
    assert tiny_model.text.encode([text]).tokens.isfinite().all()


def test_each_stage_keeps_only_the_half_of_the_vae_that_it_uses(tiny_model_folder: Path) -> None:
    """Stage mask keeps the encoder, decode keeps the decoder, encode keeps neither."""
    model = Model(path=str(tiny_model_folder))
    config = make_config().model_copy(update={"model": model})
    kept = {}
    for name in ("mask", "encode", "decode"):
        stage = load_stages(config, name, "cpu")[name]
        assert isinstance(stage, OomRetry)
        assert isinstance(stage.model, LatentDiffusion)
        vae = stage.model.image_coder.vae
        kept[name] = (vae.encoder is not None, vae.decoder is not None)
    assert kept == {"mask": (True, False), "encode": (False, False), "decode": (False, True)}


def test_fp16_weights_on_disk_are_found(tiny_model: LatentDiffusion, tmp_path: Path) -> None:
    """A folder with only a variant of the weights is loaded from it, in the configured dtype."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_model.info.folder, torch_dtype=torch.float16
    )
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half/unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    model = load_model(Model(path=str(tmp_path / "half")), "cpu", Stage())
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = tiny_model.text.encode(["a dog"])
    with torch.inference_mode():
        full, half = (m.denoiser(latent, LEVEL, text) for m in (tiny_model, model))
    assert half.dtype == torch.float32
    assert 0.0 < float((full - half).abs().max() / full.abs().max()) < 2e-2


def test_loading_a_model_makes_torch_deterministic(tiny_model: LatentDiffusion) -> None:
    """After loading a model, deterministic algorithms are on and TF32 is off."""
    assert torch.are_deterministic_algorithms_enabled()
    fills_memory = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert not fills_memory
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
