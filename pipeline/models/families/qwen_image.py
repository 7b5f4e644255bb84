"""Qwen-Image: Qwen2.5-VL reads a chat, whose length differs from text to text; a video VAE."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import Grid, Json, Text, UnsupportedModelError
from pipeline.models.flow_family import FlowFamily
from pipeline.models.patches import packed, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition

MAX_TOKENS = 512  # of a text in the pipeline's call, after the start of the chat
START_TOKENS = 34  # of the chat, in the published tokenizer; the pipeline drops them
OTHER_NETWORKS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


@cache
def template() -> str:
    """The chat, as the family's pipeline has it; {} is the text."""
    from diffusers import QwenImagePipeline

    whole: str = QwenImagePipeline(None, None, None, None, None).prompt_template_encode
    return whole


def described(tokenizer: Any, text: str) -> str:
    """What the family's pipeline gives the tokenizer."""
    return template().format(text)


def patch_norm(velocity: Tensor) -> Tensor:
    """(N, 1, h, w): the norm of the token that a cell is in."""
    norms = packed(velocity).norm(dim=-1, keepdim=True)
    height, width = velocity.shape[-2:]
    return unpacked(norms.expand(-1, -1, 4), height, width)


class QwenImage(FlowFamily):
    """Guidance keeps the norm of the text's own velocity, token by token."""

    name = "qwen-image"
    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline")
    network = ("transformer", "QwenImageTransformer2DModel")
    vae = "AutoencoderKLQwenImage"
    texts = (
        Text(
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen2Tokenizer",
            max_tokens=START_TOKENS + MAX_TOKENS,
            template=described,
        ),
    )
    native_cells = 128
    patch_size = 2
    cells_of_token = 4
    ends_a_step_above = True
    inverts_distilled = False
    fits_texts = False

    def check(self, index: Json, network: Json, vae: Json) -> None:
        for key in OTHER_NETWORKS:
            if network.get(key):
                raise UnsupportedModelError(
                    f"{key}={network[key]!r} of its network; allowed are text-to-image models "
                    f"without it"
                )
        listed = {len(vae[key]) for key in ("latents_mean", "latents_std") if vae.get(key)}
        if listed - {vae.get("z_dim", 16)}:
            raise UnsupportedModelError("latents_mean or latents_std of its VAE is not z_dim long")
        # this family's latents are normalised with both
        super().check(index, network, {**vae, "latents_mean": None, "latents_std": None})

    def grid(self, network: Json, vae: Json) -> Grid:
        halvings = len(vae.get("temperal_downsample", [False, True, True]))
        as_usual = {"block_out_channels": [0] * (halvings + 1)}
        return super().grid(network, {"latent_channels": vae.get("z_dim", 16), **as_usual})

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        rows = [  # one by one: padding to the longest would let a text depend on its neighbours
            pipeline.encode_prompt(text, device, max_sequence_length=MAX_TOKENS)[0][0].float()
            for text in texts
        ]
        return replace(Condition.of_rows(rows), kept_norm=patch_norm)

    def prepare(self, network: Any) -> None:
        """Its blocks take the mask as it is: the network would ask for the texts' lengths first."""

        def with_mask(block: Any, inputs: tuple[Any, ...], named: Json) -> tuple[Any, Json]:
            return inputs, named | named["joint_attention_kwargs"] | {"joint_attention_kwargs": {}}

        for block in network.transformer_blocks:
            block.register_forward_pre_hook(with_mask, with_kwargs=True)

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        rows, _, height, width = latent.shape
        velocity = network(
            packed(latent),
            encoder_hidden_states=condition.tokens,
            attention_kwargs={"encoder_hidden_states_mask": condition.mask},
            timestep=timestep.float().expand(rows) / 1000.0,
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            return_dict=False,
        )[0]
        return unpacked(velocity, height, width)

    def latent_range(self, vae: Any) -> tuple[Any, Any]:
        import torch

        mean, deviation = (
            torch.tensor(values, device=vae.device).view(1, -1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return mean, 1.0 / deviation

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        return super().encoded(vae, pixels.unsqueeze(2))[:, :, 0]  # one frame of a video

    def decoded(self, vae: Any, latents: Tensor) -> Tensor:
        return super().decoded(vae, latents.unsqueeze(2))[:, :, 0]


FAMILY = QwenImage()
