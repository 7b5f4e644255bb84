"""A checkpoint in one file: what is in it, from its header alone. No torch.

The names of tensors are those of the code in which Stable Diffusion was trained: the network's
begin with ``model.diffusion_model.``, the VAE's with ``first_stage_model.``, the text encoders'
with ``cond_stage_model.`` (1.x and 2.x) or ``conditioner.embedders.`` (XL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.model_files import PICKLES, is_pointer, pointer_reason
from pipeline.models.weight_files import StoredTensor, tensors_in, truncation
from pipeline.models.weights import some_of

PREFIXES = {  # of the tensors, by the subfolder that they go to
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
OF_VAE = re.compile(r"(encoder|decoder)\.(conv_|down\.|up\.|mid\.|norm_)|(post_)?quant_conv\.")
# Of text encoders: positions, which are counted here, and what only the training used.
NO_WEIGHTS = ("position_ids", "logit_scale")
FLAGS = ("v_pred", "ztsnr")  # with these names a file says so of its own training
# Of the training: schedules, which are computed here, losses and averages of the weights.
UNUSED = re.compile(
    r"betas|alphas_|sqrt_|log_|posterior_|logvar|lvlb_|denoiser\.|scale_factor|loss\.|model_ema\."
)
DTYPES = {"F16", "BF16", "F32", "F64"}
# What looks like a model and is another thing, and what may be one thing of several.
REFUSED = {
    r"edm_": "was trained in EDM's formulation, which is not supported",
    r"control_model\.": "holds a ControlNet, which is not supported",
    r"conditioner\.embedders\.0\.model\.": "is SDXL's refiner; allowed is the base model",
}
NO_MODEL = {
    r"lora_|.*\.(lora_(A|B|up|down)|hada_w1_a|dora_scale)\b": "is a LoRA; give it as model.lora",
    r"(down|up|transformer|joint|double)_blocks\.": (
        "is one network in the names of diffusers; it belongs into a folder in diffusers' format, "
        "beside its config.json"
    ),
}


class ConversionError(ValueError):
    """A checkpoint cannot be made a folder; the message names it and what is allowed."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in one file.

    Attributes:
        path: of the file.
        tensors: what its header says of them, by name.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def is_vae(self) -> bool:
        """Whether it is a VAE alone."""
        return not self.names_of("unet") and bool(self.names_of("vae"))

    @property
    def flags(self) -> tuple[str, ...]:
        """Which of ``FLAGS`` it has."""
        return tuple(flag for flag in FLAGS if flag in self.tensors)

    def names_of(self, part: str) -> list[str]:
        """The weights of a part, a subfolder of a model; none: the file is without it."""
        found = [name for name in self.tensors if name.startswith(PREFIXES[part])]
        found = [name for name in found if not name.endswith(NO_WEIGHTS)]
        if part == "vae" and not found:
            found = [name for name in self.tensors if OF_VAE.match(name)]
        return found

    def unknown(self) -> list[str]:
        """Tensors that are of no part, and not known to be of the training alone."""
        known = {name for part in PREFIXES for name in self.names_of(part)} | set(FLAGS)
        left = (name for name in self.tensors if name not in known)
        return sorted(n for n in left if not n.endswith(NO_WEIGHTS) and not UNUSED.match(n))

    def error(self, reason: str) -> ConversionError:
        """The error for a file that cannot be converted."""
        return ConversionError(f"{str(self.path)!r}: {reason}")


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint's header.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: it is no whole safetensors file, or no checkpoint of Stable Diffusion; the
            message says what it is, where that is known.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r}: no such file")
    found = Checkpoint(path, {})
    if path.name.endswith(PICKLES):
        raise found.error("is pickled, and could run code when it is read; allowed are safetensors")
    if is_pointer(path):
        raise found.error(pointer_reason(path))
    if reason := truncation(path):
        raise found.error(reason)
    found = Checkpoint(path, tensors_in(path))
    for name in found.tensors:
        for pattern, reason in REFUSED.items():
            if re.match(pattern, name):
                raise found.error(f"{reason} ({name!r})")
    _check_is_model(found)
    parts = [name for part in PREFIXES for name in found.names_of(part)]
    quantized = [name for name in parts if found.tensors[name].dtype not in DTYPES]
    if quantized:
        first = found.tensors[quantized[0]].dtype
        raise found.error(
            f"{len(quantized)} tensors are quantized ({quantized[0]!r} is {first}); allowed are "
            "float32, float16 and bfloat16"
        )
    return found


def _check_is_model(found: Checkpoint) -> None:
    if found.names_of("unet") or found.is_vae:
        return
    for pattern, reason in NO_MODEL.items():
        for name in found.tensors:
            if re.match(pattern, name):
                raise found.error(f"{reason} ({name!r})")
    raise found.error(
        f"has no tensors of {PREFIXES['unet'][0]!r} and none of a VAE, but "
        f"{some_of(sorted(found.tensors))}; allowed are checkpoints of Stable Diffusion 1.x, 2.x "
        "and XL in the names of their own code"
    )
