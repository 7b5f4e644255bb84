"""Stage `export`: writes the trained model into the package, with its model card."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from string import Template
from typing import Any

import torch
import yaml
from diffusers import StableDiffusionPipeline

from jobs.train_demo.progress import draw_curves
from pipeline.demo.readback import WEIGHTS
from pipeline.demo.vocabulary import write_tokenizer

BUNDLED = Path(__file__).resolve().parents[2] / "pipeline" / "demo" / "model"
LARGEST_BYTES = 25_000_000
_CARD = Template("""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# Overpaint's demo model

A small text-conditioned latent diffusion model in the format of Stable Diffusion. It was trained
from scratch by `python -m jobs.train_demo.command all` on scenes that `pipeline/demo` draws: one to
three flat objects (6 shapes, 8 colors) on 6 backgrounds, 128 x 128 pixels, latents of 16 x 16 x 4.
With it tests, the demo and comparisons of methods run without a download. It knows no other world.

    from diffusers import StableDiffusionPipeline
    pipeline = StableDiffusionPipeline.from_pretrained("pipeline/demo/model")
    pipeline("a red circle and a blue star on a brick wall", guidance_scale=4).images[0]

## Training

* Data: drawn during training, with the seeds in the settings below; it holds no photo. One scene in
  eight is held out, by a hash of its description; all figures are of held-out scenes.
* VAE: `AutoencoderKL`, $vae_parameters parameters, $vae_summary. Latent channels are centered
  and scaled to one spread.
* VAE on pairs, $joins_summary: the latents of a scene and of its edit are joined at the
  cells that change. The result must decode to the edit, and cells that do not change must keep
  their latents.
* UNet and text encoder, trained together: $unet_parameters and $text_parameters parameters,
  $unet_summary. The moving average of the weights is kept.
* **The UNet was trained on edits.** Half of its noisy training images with a caption still show, in
  part, the scene before an edit; the caption and the wanted result are those after it. Without this
  so small a network lets caption and noisy image cancel out, and an edited object vanishes. Real
  text-to-image models are not trained on such pairs: compare methods on this model, but expect
  every method to follow a text less readily on others.
* Decoder of the VAE, $decoder_summary that the model made itself, and as many
  whole images: the latents that an edit leaves must decode to the true image after it.
* UNet on edits, $edits_summary, first and last blocks only: it edits as DiffEdit does, with
  given masks, and learns from the decoded image, through all the steps of decoding.
* Machine: $machine.
* UNet and VAE are stored in float16, the text encoder in float32.
* $notes

![loss of the VAE](vae_losses.png)

![loss of the VAE on pairs](joins_losses.png)

![loss of the UNet](unet_losses.png)

![loss of the decoder](decoder_losses.png)

![loss of the UNet on edits](edits_losses.png)

## Figures

Measured by `overpaint evaluate demo --card --plain --limit 512`, with the settings of `make demo`
(configs/demo.yaml) and without the pixel composite. Edits and scenes are held out; five kinds of
edits take turns. Figures of masks are of DiffEdit's masks on the latent grid; for the edit they
grow by a cell. The background is all that a color, shape or object edit does not change, shadows
included. It is that of the edit, of the VAE alone, and of a perfect edit, which replaces the truly
changed latent cells and no others. `overpaint evaluate demo --sweep` compares methods and ratios.

$figures

$limits

## Settings

```yaml
$settings
```

## License

Apache-2.0, like the rest of the package.
""")


def export(settings: dict[str, Any], folder: Path) -> None:
    """Writes the model folder and the reader's weights into the package.

    Args:
        settings: the whole config.
        folder: of the training run; its evaluation/card.md, if there is one, becomes part of the
            card. It comes from ``overpaint evaluate demo --card --config demo
            model.path=FOLDER/model --out FOLDER/evaluation``.

    Raises:
        ValueError: the folder would be larger than 25 MB.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder / settings["export"]["source"], trust_remote_code=False
    )
    facts = {
        "vae_parameters": _millions(pipeline.vae),
        "unet_parameters": _millions(pipeline.unet),
        "text_parameters": _millions(pipeline.text_encoder),
        "vae_summary": _summary(
            folder / "vae", settings["vae"]["batch_size"], "crops of 64 pixels"
        ),
        "joins_summary": _summary(folder / "joins", settings["joins"]["batch_size"], "edits"),
        "unet_summary": _summary(folder / "unet", settings["unet"]["batch_size"], "latents"),
        "edits_summary": _summary(folder / "edits", settings["edits"]["batch_size"], "edits"),
        "decoder_summary": _summary(folder / "decoder", settings["decoder"]["batch_size"], "edits"),
        "machine": settings["export"]["machine"],
        "limits": textwrap.fill(settings["export"]["limits"], 100),
        "notes": textwrap.fill(settings["export"]["notes"], 98, subsequent_indent="  "),
        "settings": yaml.safe_dump(settings, sort_keys=False).strip(),
        "figures": _text(folder / "evaluation" / "card.md") or "Not measured yet.",
    }
    partial = BUNDLED.with_name(BUNDLED.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in settings["edits"]["trained_modules"]:
        round_weights(pipeline.unet.get_submodule(name), settings["export"]["mantissa_bits"])
    pipeline.unet.half()
    pipeline.vae.half()
    # transformers loads the stored dtype, and would pass half floats to a float32 UNet.
    pipeline.text_encoder.float()
    pipeline.save_pretrained(partial, safe_serialization=True)
    write_tokenizer(partial / "tokenizer")
    for stage in ("vae", "joins", "unet", "decoder", "edits"):
        draw_curves(folder / stage)
        shutil.copyfile(folder / stage / "losses.png", partial / f"{stage}_losses.png")
    (partial / "README.md").write_text(_CARD.substitute(facts))
    total = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if total > LARGEST_BYTES:
        raise ValueError(f"{partial}: {total} bytes; at most {LARGEST_BYTES} are allowed")
    shutil.rmtree(BUNDLED, ignore_errors=True)
    partial.rename(BUNDLED)
    shutil.copyfile(folder / "readback.safetensors", WEIGHTS)
    print(f"{BUNDLED}: {total / 1e6:.1f} MB")


@torch.no_grad()
def round_weights(network: torch.nn.Module, bits: int) -> None:
    """Rounds weights to this many bits after the leading one, in place.

    It is for weights that change between versions of the model: their low bits are noise, do not
    compress, and stay in the repository forever. With five bits no figure changed by more than
    0.03 dB.
    """
    for weight in network.parameters():
        mantissa, exponent = torch.frexp(weight)
        weight.copy_(torch.ldexp((mantissa * 2 ** (bits + 1)).round(), exponent - bits - 1))


def _millions(network: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M"


def _summary(folder: Path, batch_size: int, what: str) -> str:
    """Steps, samples and minutes of a stage, from the last line of its log."""
    last = json.loads((folder / "losses.jsonl").read_text().splitlines()[-1])
    steps = last["step"]
    return f"{steps} steps, {steps * batch_size} {what}, {last['elapsed_s'] / 60:.0f} min"


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""
