"""PixArt-Sigma: a transformer that predicts eps and its variance; T5, whose padding is masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.betas_family import BetasFamily
from pipeline.models.family_facts import T5_VOCABULARY, Text

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


def lowered(tokenizer: Any, text: str) -> str:
    """What the family's pipeline gives the tokenizer."""
    return text.lower().strip()


class PixArtSigma(BetasFamily):
    """The network's second half of channels is the variance, which no solver here asks for."""

    name = "pixart-sigma"
    pipelines = ("PixArtSigmaPipeline",)
    network = ("transformer", "PixArtTransformer2DModel")
    texts = (Text("T5EncoderModel", "T5Tokenizer", "", 300, T5_VOCABULARY, template=lowered),)
    native_cells = 128
    takes_loras = False

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, mask, _, _ = pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False, device=device
        )
        return Condition(tokens.float(), mask=mask.bool())

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        predicted: Tensor = network(
            latent,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.seen(),
            timestep=timestep.expand(len(latent)),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return predicted[:, : latent.shape[1]]


FAMILY = PixArtSigma()
