"""What Overpaint has to know about a model family. Each family is one file in ``families/``.

A family's file says it all: which folders and classes, how texts become a condition, how latents
are normalised, how the network is asked, and which schedule it has. It must load without torch,
since the driver reads it too: classes are named by strings, and what computes gets tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.models.distilled import Distilled
from pipeline.models.family_facts import Grid, Json, Text, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class Family:
    """What one family is, with what most have in common. A file in ``families/`` says the rest.

    Attributes:
        name: as in rows and errors.
        pipelines: classes in ``model_index.json``; the first one's ``encode_prompt`` encodes texts.
        pipeline_options: for its constructor, besides text encoders and tokenizers.
        network: folder and class.
        vae: its class.
        texts: in the order of the folders.
        zeros_for_empty: whether an empty text is all zeros where the index does not say.
        upcasts_vae: whether the VAE is float32 in place of float16 where its config does not say.
        native_cells: side of the training latents where the network's config has no sample_size.
        is_convolutional: whether the network is laid out for convolutions.
        reuses_features: whether ``method.reuse`` serves this network.
        decodes_boxes: whether a part of an image looks to the network like a whole one.
        inverts_distilled: whether a model distilled to few steps can be inverted at all.
        takes_loras: whether its pipeline in diffusers loads LoRAs.
        fits_texts: whether texts have one length, so that Imagic can fit and hand on their tokens.
        patch_size: side of a patch in cells where the network's config has none.
        cells_of_token: how many cells the family's pipeline packs into one token; the network's
            channels are C times as many.
        instructs_texts: whether texts are encoded after an instruction, and a negative one would
            have to be encoded without.
        guidance_is_embedded: whether the network takes the guidance scale as an input.
        few_steps: words in names of models distilled to few steps, with the most steps and the
            largest guidance scale; besides those that ``distilled.py`` knows of any family.
    """

    name: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    pipeline_options: ClassVar[Json] = {}
    network: ClassVar[tuple[str, str]]
    vae: ClassVar[str] = "AutoencoderKL"
    texts: ClassVar[tuple[Text, ...]]
    zeros_for_empty: ClassVar[bool] = False
    upcasts_vae: ClassVar[bool] = True
    native_cells: ClassVar[int] = 64
    is_convolutional: ClassVar[bool] = False
    reuses_features: ClassVar[bool] = False
    decodes_boxes: ClassVar[bool] = False
    inverts_distilled: ClassVar[bool] = True
    takes_loras: ClassVar[bool] = True
    fits_texts: ClassVar[bool] = True
    patch_size: ClassVar[int] = 1
    cells_of_token: ClassVar[int] = 1
    instructs_texts: ClassVar[bool] = False
    guidance_is_embedded: ClassVar[bool] = False
    few_steps: ClassVar[Mapping[str, tuple[int, float]]] = {}

    @property
    def components(self) -> tuple[str, ...]:
        """The subfolders of a model, optional ones included."""
        texts = [folder for text in self.texts for folder in text.folders]
        return (self.network[0], "vae", *texts, "scheduler")

    @property
    def optional(self) -> tuple[str, ...]:
        """The subfolders that a model may leave out."""
        return tuple(folder for text in self.texts if text.optional for folder in text.folders)

    @property
    def needs(self) -> str:
        """What a folder of this family holds, for errors."""
        folders = [name for name in self.components if name not in self.optional]
        return f"{self.name} ({self.pipelines[0]} with {', '.join(folders)})"

    def check(self, index: Json, network: Json, vae: Json) -> None:
        """Refuses a model that needs what is not supported.

        Raises:
            UnsupportedModelError: ``in_channels`` or another key asks for it.
        """
        channels = self.grid(network, vae).channels * self.cells_of_token
        if network.get("in_channels", channels) != channels:
            raise UnsupportedModelError(
                f"its network takes {network['in_channels']} channels where the VAE has "
                f"{channels} (an inpainting model?); allowed are text-to-image models"
            )
        if vae.get("latents_mean") or vae.get("latents_std"):
            raise UnsupportedModelError("its VAE has latents_mean or latents_std: not supported")

    def grid(self, network: Json, vae: Json) -> Grid:
        """The latent grid, from the configs of network and VAE.

        Raises:
            UnsupportedModelError: the configs give no square.
        """
        scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        multiple = scale * int(network.get("patch_size", self.patch_size))
        positions = network.get("pos_embed_max_size")
        return Grid(
            scale,
            int(vae.get("latent_channels", 4)),
            multiple,
            _side(network.get("sample_size") or self.native_cells) * scale,
            multiple * int(positions) if positions else None,
            halvings=len(network.get("block_out_channels", [0])) - 1,
        )

    def distilled(self, index: Json) -> Distilled | None:
        """Whether the index itself says that the model was distilled to few steps, and how."""
        return None

    def prediction_type(self, scheduler: Json) -> str:
        """What the network was trained to predict: epsilon, v_prediction, sample or flow.

        Raises:
            UnsupportedModelError: the scheduler is of another kind.
        """
        raise NotImplementedError

    def schedule(
        self, scheduler: Json, grid: tuple[int, int], cells_per_token: int
    ) -> NoiseSchedule:
        """The noise schedule; ``for_grid`` gives that of another image.

        Args:
            scheduler: its config.
            grid: (h, w) of the image's latent in cells.
            cells_per_token: a side: what the network makes a token.

        Raises:
            ValueError: the scheduler's config uses an unsupported option.
        """
        raise NotImplementedError

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        """The condition of each text, in float32, from the family's own pipeline.

        Args:
            pipeline: of the first class in ``pipelines``, with text encoders and tokenizers only.
            texts: N of them.
            device: the encoders'.
        """
        raise NotImplementedError

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        """The network's prediction of ``prediction_type``; a velocity is that from x0 to noise.

        Args:
            network: as loaded.
            latent: (N, C, h, w) in the network's dtype.
            timestep: of the schedule, one number or (N,).
            condition: N rows in the network's dtype.
            scale: side of one latent cell in pixels.

        Returns:
            (N, C, h, w).
        """
        raise NotImplementedError

    def prepare(self, network: Any) -> None:
        """Changes a network, on its device, so that no call of it lets the host wait; no bits."""

    def latent_range(self, vae: Any) -> tuple[Any, Any]:
        """(shift, scale) of a loaded VAE: the network's latents are (x - shift) * scale."""
        config = vae.config
        return float(getattr(config, "shift_factor", None) or 0.0), float(config.scaling_factor)

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        """(N, C, h, w): the posterior's mode of (N, 3, H, W) in -1 to 1, so no noise is drawn."""
        mode: Tensor = vae.encode(pixels).latent_dist.mode()
        return mode

    def decoded(self, vae: Any, latents: Tensor) -> Tensor:
        """(N, 3, H, W): the inverse of ``encoded``."""
        pixels: Tensor = vae.decode(latents, return_dict=False)[0]
        return pixels


def _side(given: Any) -> int:
    """Side of a square; some configs give height and width."""
    sides: Sequence[Any] = given if isinstance(given, list) else [given]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not whole or min(sides, default=0) < 1 or len(set(sides)) > 1:
        raise UnsupportedModelError(f"sample_size={given!r}; allowed is a square's side")
    return int(sides[0])
