"""Networks that embed images and texts for comparison: CLIP, DINO, DINOv2."""

# N images or texts, D feature dimensions, T tokens of an image (its class token and patches).
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from transformers import CLIPModel, CLIPTokenizer, PreTrainedModel, ViTModel

from pipeline.models.micro_batch import MicroBatch

Images = Sequence[np.ndarray]  # N of (H, W, 3) uint8

# ImageNet's statistics for values in [0, 1], which DINO was trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNetwork:
    """A transformers image network with the preprocessing that its folder specifies."""

    def __init__(self, network: PreTrainedModel, processor: Any, micro_batch: MicroBatch) -> None:
        self.network, self.processor, self.micro_batch = network, processor, micro_batch

    def prepared(self, images: Images) -> Tensor:
        """(N, 3, h, w) on the network's device: resized, cropped and normalized by Pillow."""
        pixels: Tensor = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels.to(self.network.device, self.network.dtype)

    def map(self, compute: Any, images: Images) -> Tensor:
        """Applies ``compute`` to the prepared images in micro-batches; returns float32."""
        outputs = self.micro_batch.map(
            lambda rows: compute(self.prepared(images[rows])).float(), len(images)
        )
        return torch.cat(outputs)


class Clip(ImageNetwork):
    """CLIP's two encoders. Features are scaled to length 1."""

    network: CLIPModel

    def __init__(
        self, network: CLIPModel, processor: Any, tokenizer: CLIPTokenizer, micro_batch: MicroBatch
    ) -> None:
        super().__init__(network, processor, micro_batch)
        self.tokenizer = tokenizer
        self.max_tokens = int(network.config.text_config.max_position_embeddings)

    def images(self, images: Images) -> Tensor:
        """(N, D) float32."""
        features = self.map(
            lambda pixels: self.network.get_image_features(pixels).pooler_output, images
        )
        return normalize(features)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32; texts are padded and truncated to the network's length."""
        encoded = self.tokenizer(
            [text.encode("utf-8", "replace").decode() for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        ids = encoded["input_ids"].to(self.network.device)
        features = self.micro_batch.map(
            lambda rows: self.network.get_text_features(ids[rows]).pooler_output.float(),
            len(texts),
        )
        return normalize(torch.cat(features))


def clip_scores(
    before: Tensor, after: Tensor, caption: Tensor, edit_text: Tensor
) -> dict[str, Tensor]:
    """How well images match texts, and whether image and text changed in the same direction.

    Args:
        before: (N, D) features of length 1, of the images before the edit.
        after: same shape, of the images after the edit.
        caption: same shape, of the captions.
        edit_text: same shape, of the edit texts.

    Returns:
        (N,) cosines by score name. If CLIP gives two images or two texts the same features, there
        is no direction, and the directional score is 0.

    Source: InstructPix2Pix, arXiv:2211.09800, section 3.1.2; StyleGAN-NADA, arXiv:2108.00946, for
        the direction.
    """
    return {
        "clip_text_before": cosine_similarity(before, caption),
        "clip_text_after": cosine_similarity(after, edit_text),
        "clip_image": cosine_similarity(before, after),
        "clip_directional": cosine_similarity(after - before, edit_text - caption),
    }


class DinoStructure:
    """Compares images by the self-similarity of DINO's attention keys in one layer."""

    def __init__(self, network: ViTModel, layer: int, micro_batch: MicroBatch) -> None:
        self.network, self.micro_batch = network, micro_batch
        self.size = int(network.config.image_size)
        self._keys: list[Tensor] = []
        network.layers[layer].attention.k_proj.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, keys: Tensor) -> None:
        self._keys.append(keys)

    def distance(self, before: Images, after: Images) -> Tensor:
        """(N,) float32: the mean squared difference of two images' self-similarities.

        Source: Splice, arXiv:2201.00424, section 3.2, as PIE-Bench measures it: with the keys of
            all heads concatenated, and the class token included.
        Differs: images are resized by Pillow, with antialiasing, before they are normalized.
        """
        outputs = self.micro_batch.map(
            lambda rows: (
                (self._similarity(before[rows]) - self._similarity(after[rows]))
                .square()
                .mean((1, 2))
            ),
            len(before),
        )
        return torch.cat(outputs)

    def _similarity(self, images: Images) -> Tensor:
        """(N, T, T) float32, the cosines of the keys of all pairs of tokens."""
        self._keys.clear()
        self.network(self._prepared(images))
        keys_NTD = normalize(self._keys.pop().float(), dim=2)
        return keys_NTD @ keys_NTD.transpose(1, 2)

    def _prepared(self, images: Images) -> Tensor:
        size, resample = (self.size, self.size), Image.Resampling.BILINEAR
        resized = [np.asarray(Image.fromarray(image).resize(size, resample)) for image in images]
        pixels = torch.from_numpy(np.stack(resized)).to(self.network.device).float() / 255
        scaled = (pixels - pixels.new_tensor(IMAGENET_MEAN)) / pixels.new_tensor(IMAGENET_STD)
        return scaled.permute(0, 3, 1, 2).to(self.network.dtype)
