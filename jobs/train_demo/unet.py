"""Stage `unet`: trains UNet and text encoder together on the cached latents."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jobs.train_demo.latents import CachedPairs
from jobs.train_demo.loop import device_of, train, worker
from jobs.train_demo.progress import StageSettings
from pipeline.demo.vocabulary import MAX_LENGTH, vocabulary, write_tokenizer

# N images, C latent channels, h w latent grid, L tokens.
_FULL_SHARE = 0.5  # this share of outdated latents shows all of the other image, as decoding starts
# In units of sigma / alpha: below the first nothing is outdated, above the second all of it is.
_FADED, _WHOLE = 0.3, 1.0


class TextToNoise(nn.Module):
    """The UNet and the text encoder, which are trained together: tokens in, noise out."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, latents_NChw: Tensor, timesteps_N: Tensor, ids_NL: Tensor) -> Tensor:
        """The predicted noise, shaped like the latents, float32."""
        return self.from_text_states(latents_NChw, timesteps_N, self.text_encoder(ids_NL)[0])

    def from_text_states(
        self, latents_NChw: Tensor, timesteps_N: Tensor, text_states_NLD: Tensor
    ) -> Tensor:
        """The predicted noise, from the text encoder's hidden states (N, L, D)."""
        # On a CPU fused attention's backward pass takes longer than all convolutions (torch 2.13).
        is_cpu = text_states_NLD.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if is_cpu else nullcontext():
            noise: Tensor = self.unet(
                latents_NChw, timesteps_N, text_states_NLD, return_dict=False
            )[0]
            return noise.float()


def build_networks(settings: dict[str, Any], latent_channels: int) -> TextToNoise:
    """Untrained networks; the text encoder and the UNet's cross-attention have the same width."""
    width, tokens = settings["text_width"], vocabulary()
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=settings["channels"],
        down_block_types=settings["down_blocks"],
        up_block_types=settings["up_blocks"],
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=width,
        attention_head_dim=4,  # despite its name, the number of heads (diffusers issue 2011)
    )
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=settings["text_layers"],
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    return TextToNoise(unet, CLIPTextModel(text))


def load_networks(folder: Path) -> TextToNoise:
    """The networks of a saved model, in float32 whatever their stored dtype."""
    return TextToNoise(
        UNet2DConditionModel.from_pretrained(
            folder / "unet", torch_dtype=torch.float32, trust_remote_code=False
        ),
        CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32, trust_remote_code=False
        ),
    )


def load_weights(network: TextToNoise, folder: Path) -> None:
    """Loads the (averaged) weights of a saved model with the same settings."""
    network.load_state_dict(load_networks(folder).state_dict())


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def min_snr_weights(alphas_cumprod_N: Tensor, gamma: float) -> Tensor:
    """Loss weights for predicted noise: min(snr, gamma) / snr (Min-SNR, arXiv:2303.09556)."""
    snr = alphas_cumprod_N / (1 - alphas_cumprod_N)
    return snr.clamp(max=gamma) / snr


def changed_cells(before_NChw: Tensor, after_NChw: Tensor, generator: torch.Generator) -> Tensor:
    """Masks of the cells in which two images' latents differ, tight or loose at random.

    The threshold of each image is drawn from 2 % to 50 % of its largest difference.

    Returns:
        (N, 1, h, w) bool.
    """
    difference = (before_NChw - after_NChw).abs().mean(1, keepdim=True)
    share = 0.02 + 0.48 * torch.rand(len(difference), 1, 1, 1, generator=generator)
    return difference > share * difference.amax((1, 2, 3), keepdim=True)


def outdated(clean: Tensor, other: Tensor, sigmas: Tensor, generator: torch.Generator) -> Tensor:
    """Latents that still show, in part, the other image of a pair, which contradicts the text.

    A real text-to-image model trusts its text more than a noisy image that contradicts it. In this
    small model the two canceled out, and an edited object often vanished. So it is trained on
    latents as in masked decoding: the other image outside of a mask, and a mixture of both inside.

    Args:
        clean: (N, C, h, w), the latents that the text describes.
        other: same shape, the same images before or after an edit.
        sigmas: (N, 1, 1, 1), sigma / alpha of the noise that will be added. With little noise
            nothing is outdated: decoding has finished the edit by then, and the target changes by
            (other - clean) / sigma, which would dominate the loss.
        generator: for the masks and the mixture.

    Returns:
        (N, C, h, w).
    """
    count = (len(clean), 1, 1, 1)
    mixture = torch.rand(count, generator=generator)
    mixture[torch.rand(count, generator=generator) < _FULL_SHARE] = 1.0
    inside = changed_cells(other, clean, generator)
    faded = ((sigmas - _FADED) / (_WHOLE - _FADED)).clamp(0.0, 1.0)
    return clean + faded * torch.where(inside, mixture, 1.0) * (other - clean)


def noise_losses(
    network: TextToNoise,
    pairs: CachedPairs,
    settings: dict[str, Any],
    count: int,
    generator: torch.Generator,
    *,
    late: bool,
) -> dict[str, Tensor]:
    """The losses of predicting the noise in `count` random images; if `late`, some are outdated.

    Returns:
        "loss" of all, and "mse" of the images that are not outdated.
    """

    def chosen(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    device, alphas_cumprod = device_of(network), build_scheduler().alphas_cumprod
    rows_N = torch.randint(len(pairs.latents), (count,), generator=generator)
    side_N = torch.randint(2, (count,), generator=generator)
    clean, other = (pairs.latents[rows_N, side].float() for side in (side_N, 1 - side_N))
    ids = pairs.texts(rows_N, side_N, generator)
    dropped_N = chosen(settings["empty_captions"])
    ids[dropped_N] = pairs.empty_L
    timesteps_N = torch.randint(len(alphas_cumprod), (count,), generator=generator)
    timesteps_N = torch.where(chosen(settings["early"]), timesteps_N // 2, timesteps_N)
    level_N = alphas_cumprod[timesteps_N]
    sigma_N = (1 / level_N - 1).sqrt()[:, None, None, None]
    # From here on in the coordinates of the ODE, image + sigma * noise.
    shown = outdated(clean, other, sigma_N, generator)
    plain_N = ~chosen(settings["outdated"] * late) | dropped_N  # not outdated
    shown[plain_N] = clean[plain_N]
    noise = torch.randn(clean.shape, generator=generator)
    noisy = level_N.sqrt()[:, None, None, None] * (shown + sigma_N * noise)
    wanted = noise + (shown - clean) / sigma_N
    predicted = network(noisy.to(device), timesteps_N.to(device), ids.to(device))
    error_N = (predicted - wanted.to(device)).square().mean((1, 2, 3))
    weights_N = min_snr_weights(level_N, settings["min_snr_gamma"]).to(device)
    return {"loss": (weights_N * error_N).mean(), "mse": error_N[plain_N.to(device)].mean()}


def train_unet(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Trains on the cached latents; writes `folder`/snapshot and at the end `folder`/model."""
    stage = StageSettings.from_mapping(settings)
    pairs = CachedPairs.load(folder)
    torch.manual_seed(stage.seed)
    network = build_networks(settings, pairs.latents.shape[2])
    if settings.get("start_from"):
        load_weights(network, Path(settings["start_from"]))
    network.to(device)
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        late = fraction >= settings["outdated_after"]
        return noise_losses(network, pairs, settings, share, generator, late=late)

    vae = AutoencoderKL.from_pretrained(folder / "joins" / "model", trust_remote_code=False)

    def snapshot(trained: nn.Module, step: int) -> None:
        save_pipeline(network, vae, folder, folder / "snapshot")

    train(network, losses_at, stage, folder / "unet", resume=resume, after_checkpoint=snapshot)
    if rank == 0:
        save_pipeline(network, vae, folder, folder / "model")


def save_pipeline(network: TextToNoise, vae: AutoencoderKL, folder: Path, target: Path) -> None:
    """Writes the model as a StableDiffusionPipeline folder, and replaces `target` when complete."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=network.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False),
        unet=network.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = target.with_name(target.name + ".partial")
    pipeline.save_pretrained(partial, safe_serialization=True)
    write_tokenizer(partial / "tokenizer")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
