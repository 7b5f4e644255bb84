"""Which text encoders a family has, and how the condition is made of what they answer.

Each is what the family's own pipeline in diffusers computes.
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

T5_TOKENS = 256  # what diffusers' Stable Diffusion 3 pipeline pads T5's texts to

CLIP = (CLIPTextModel, CLIPTokenizer)
CLIP_PROJECTED = (CLIPTextModelWithProjection, CLIPTokenizer)
T5 = (T5EncoderModel, T5Tokenizer)

# Family: the classes of text_encoder and tokenizer, of text_encoder_2 and tokenizer_2, and so on.
TOWERS: dict[str, tuple[tuple[Any, Any], ...]] = {
    "stable-diffusion": (CLIP,),
    "stable-diffusion-xl": (CLIP, CLIP_PROJECTED),
    "stable-diffusion-3": (CLIP_PROJECTED, CLIP_PROJECTED, T5),
}


def join_for(family: str, token_width: int) -> Join:
    """How a family makes one condition of its encoders' answers.

    Args:
        family: of ``TOWERS``.
        token_width: D of the tokens that the network takes.
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
    """SDXL: the last but one hidden states side by side, and the second encoder's projection.

    Source: SDXL, arXiv:2307.01952, section 2.1.
    """
    tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Condition(tokens.float(), outputs[1].text_embeds.float())


def clip_beside_t5(outputs: Outputs, width: int) -> Condition:
    """Stable Diffusion 3: both CLIPs side by side, padded to T5's width, then T5's tokens.

    Without T5, which a model folder may leave out, its tokens are zeros, as in training where it
    was dropped.

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
