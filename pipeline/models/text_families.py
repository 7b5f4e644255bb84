"""The text encoders of each family, and how their outputs are joined to a condition.

The results equal those of the family's own pipeline in diffusers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from pipeline.diffusion.denoiser import Condition
from pipeline.models.text import Join, Outputs

T5_TOKENS = 256  # diffusers' Stable Diffusion 3 pipeline pads T5's texts to this length

CLIP = (CLIPTextModel, CLIPTokenizer)
CLIP_PROJECTED = (CLIPTextModelWithProjection, CLIPTokenizer)
T5 = (T5EncoderModel, T5Tokenizer)

# By family: the classes of text_encoder and tokenizer, text_encoder_2 and tokenizer_2, and so on.
TOWERS: dict[str, tuple[tuple[Any, Any], ...]] = {
    "stable-diffusion": (CLIP,),
    "stable-diffusion-xl": (CLIP, CLIP_PROJECTED),
    "stable-diffusion-3": (CLIP_PROJECTED, CLIP_PROJECTED, T5),
}


def join_for(family: str, token_width: int) -> Join:
    """The function that joins the outputs of a family's encoders to one condition.

    Args:
        family: a key of ``TOWERS``.
        token_width: D of the network's text tokens.
    """
    if family == "stable-diffusion":
        return last_states
    if family == "stable-diffusion-xl":
        return two_penultimate_states
    return partial(clip_beside_t5, width=token_width)


def last_states(outputs: Outputs) -> Condition:
    """Stable Diffusion 1 and 2: CLIP's last hidden states, after the final norm."""
    return Condition(outputs[0].last_hidden_state.float())


def two_penultimate_states(outputs: Outputs) -> Condition:
    """SDXL: both encoders' second-to-last hidden states, and the second encoder's projection.

    Source: SDXL, arXiv:2307.01952, section 2.1.
    """
    tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Condition(tokens.float(), outputs[1].text_embeds.float())


def clip_beside_t5(outputs: Outputs, width: int) -> Condition:
    """Stable Diffusion 3: both CLIPs' states concatenated, padded to T5's width, then T5's tokens.

    If the model folder has no T5, its tokens are zeros, as for dropped T5 in training.

    Source: Esser et al., arXiv:2403.03206, figure 2.
    """
    clip = torch.cat([output.hidden_states[-2] for output in outputs[:2]], dim=-1).float()
    clip = F.pad(clip, (0, width - clip.shape[-1]))
    if len(outputs) > 2:
        t5 = outputs[2].last_hidden_state.float()
    else:
        t5 = clip.new_zeros(len(clip), T5_TOKENS, width)
    pooled = torch.cat([output.text_embeds for output in outputs[:2]], dim=-1)
    return Condition(torch.cat([clip, t5], dim=1), pooled.float())
