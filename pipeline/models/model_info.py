"""What is known about a model before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.buckets import Sizes, step_of
from pipeline.config.model import Model
from pipeline.models.added_files import LoraFile, OtherVae
from pipeline.models.distilled import Distilled
from pipeline.models.family_facts import NO_LIMIT


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model before its weights are loaded.

    Attributes:
        folder: the folder of its files.
        revision: the hub's commit, or sha256 of the local folder's files.
        family: the name of one in ``families/``; models of a family use the same code.
        prediction_type: what the network was trained to predict; "flow" is a velocity.
        native_size: side of the training images in pixels.
        latent_scale: side of one latent cell in pixels.
        latent_channels: C.
        components: its subfolders.
        commit: of a hub model; None for a local folder.
        files: all files that are loaded, relative to the folder; no others are read.
        variants: of the weights, by component; None for files without one in their names.
        distilled: set if the model was made for a few steps.
        multiple: of pixels; the sides of an image are multiples of it.
        halvings: how often the network halves its grid.
        longest: the longest side that an image may have, in pixels.
        loras: fused into the weights when they are loaded.
        vae: in place of the model's own.
    """

    folder: Path
    revision: str
    family: str
    prediction_type: str
    native_size: int
    latent_scale: int
    latent_channels: int
    components: tuple[str, ...] = ()
    commit: str | None = None
    files: tuple[str, ...] = ()
    variants: Mapping[str, str | None] = field(default_factory=dict)
    distilled: Distilled | None = None
    multiple: int = 1
    halvings: int = 0
    longest: int = NO_LIMIT
    loras: tuple[LoraFile, ...] = ()
    vae: OtherVae | None = None

    @property
    def content(self) -> str:
        """What the model is: its revision, and that of what is added to it."""
        added = [lora.content for lora in self.loras]
        added += [] if self.vae is None else [self.vae.content]
        return "+".join([self.revision, *added])

    @property
    def vae_folder(self) -> Path:
        """Where the VAE's files are."""
        return self.folder / "vae" if self.vae is None else self.vae.folder

    @property
    def variant(self) -> str:
        """The setting ``model.variant`` that chooses the same weights again, with any cache."""
        found = {variant for variant in self.variants.values() if variant is not None}
        return "auto" if len(found) > 1 else next(iter(found), "plain")

    def size_for(self, model: Model) -> int:
        """Side of the square image to edit in pixels: ``model.size``, or the model's own."""
        return self.native_size if model.size is None else model.size

    def sizes_for(self, model: Model) -> Sizes:
        """The sizes of the images to edit, by ``model.size`` and ``model.buckets``."""
        buckets = model.buckets if isinstance(model.buckets, str) else tuple(model.buckets)
        side = self.size_for(model)
        step = step_of(side, self.multiple, self.halvings)
        return Sizes(side, step, self.longest, buckets)
