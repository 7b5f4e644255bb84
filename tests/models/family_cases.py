"""The newer families' tiny models, for the tests that hold for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.models.family_checks import scaled
from tests.models.test_aura_flow import make_tiny_aura_flow
from tests.models.test_chroma import make_tiny_chroma
from tests.models.test_flux_1 import make_tiny_flux
from tests.models.test_flux_2_klein import klein_latents, make_tiny_klein
from tests.models.test_lumina2 import make_tiny_lumina2
from tests.models.test_pixart_sigma import make_tiny_pixart
from tests.models.test_qwen_image import make_tiny_qwen_image, qwen_image_latents
from tests.models.test_sana import make_tiny_sana, sana_latents
from tests.models.test_z_image import make_tiny_z_image

SCALE = 4.0  # of guidance


@dataclass(frozen=True)
class Case:
    """A family's tiny model, and its image-to-image pipeline where diffusers has one.

    Attributes:
        make: writes the model.
        image_to_image: the pipeline's class.
        call: what it is asked besides; how it is asked for guidance of ``SCALE``.
        is_packed: whether its latents are tokens of 2 x 2 cells.
        latents_of: what its latents are of what its pipeline's VAE encodes.
        is_of_videos: whether that VAE takes an image as a video of one frame.
    """

    make: Callable[[Path], Path]
    image_to_image: str | None = None
    call: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": SCALE})
    is_packed: bool = False
    latents_of: Callable[[Any, Tensor], Tensor] = scaled
    is_of_videos: bool = False


CASES = {
    "z-image": Case(make_tiny_z_image, "ZImageImg2ImgPipeline", {"guidance_scale": SCALE - 1}),
    "flux.1": Case(make_tiny_flux, "FluxImg2ImgPipeline", is_packed=True),
    "flux.2-klein": Case(make_tiny_klein, latents_of=klein_latents),
    "pixart-sigma": Case(make_tiny_pixart),
    "qwen-image": Case(
        make_tiny_qwen_image,
        "QwenImageImg2ImgPipeline",
        {"negative_prompt": "", "true_cfg_scale": SCALE},
        is_packed=True,
        latents_of=qwen_image_latents,
        is_of_videos=True,
    ),
    "chroma": Case(make_tiny_chroma, "ChromaImg2ImgPipeline", is_packed=True),
    "lumina2": Case(make_tiny_lumina2),
    "aura-flow": Case(make_tiny_aura_flow),
    "sana": Case(make_tiny_sana, latents_of=sana_latents),
}
