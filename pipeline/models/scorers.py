"""The loaded scorers of a run: they score an edit from its images and texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Model,
    ViTModel,
)
from transformers import AutoModelForImageClassification as Classifier
from transformers.utils.logging import disable_progress_bar

from pipeline.config.scores import Scores
from pipeline.config.stages import Stage
from pipeline.models.device import device_kind, make_deterministic
from pipeline.models.embeddings import Clip, DinoStructure, ImageNetwork, clip_scores
from pipeline.models.loading import DTYPES
from pipeline.models.lpips import Lpips
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.score_weights import ScorerFiles, linear_layers, probe_scores
from pipeline.models.weights import load_network


@dataclass(frozen=True)
class EditToScore:
    """One edit, as input of the scorers."""

    image: int  # index of its image in the list of images before the edit
    after: np.ndarray  # (H, W, 3) uint8, the output image before any lossy encoding
    caption: str
    edit_text: str


class Scorers:
    """All networks that a run's scores need, on one device."""

    def __init__(self, scores: Scores, device: str, micro_batch: int) -> None:
        """
        Raises:
            FileNotFoundError, ValueError: see ``probe_scores``.
        """
        self.device, self.dtype = torch.device(device), DTYPES[scores.dtype]
        self.micro_batch = MicroBatch(micro_batch)
        self.micro_batches = (self.micro_batch,)
        files = probe_scores(scores, hash_files=False, fetch=True)
        self.clip = self._clip(files["clip"]) if "clip" in files else None
        self.aesthetic = self._head(files["aesthetic"]) if "aesthetic" in files else None
        self.lpips = (
            self._lpips(scores.lpips.net, files["lpips"]) if scores.lpips is not None else None
        )
        self.dino: DinoStructure | None = None
        if scores.dino is not None:
            network = self._network(ViTModel, files["dino"], add_pooling_layer=False)
            self.dino = DinoStructure(network, scores.dino.layer, self.micro_batch)
        self.dinov2 = self._images(Dinov2Model, files["dinov2"]) if "dinov2" in files else None
        self.nsfw = self._images(Classifier, files["nsfw"]) if "nsfw" in files else None
        self.nsfw_label = scores.nsfw.label if scores.nsfw is not None else ""
        probe_scores(scores, hash_files=False)  # again: a file may have been replaced since

    @property
    def device_kind(self) -> str:
        return device_kind(self.device)

    @torch.inference_mode()
    def __call__(
        self, before: Sequence[np.ndarray], edits: Sequence[EditToScore]
    ) -> list[dict[str, float]]:
        """The scores of each edit, by column name without the prefix "score_".

        Features of an image before its edits are computed once for all its edits.

        Args:
            before: (H, W, 3) uint8 each.
            edits: at least one.
        """
        image_rows = [edit.image for edit in edits]
        after = [edit.after for edit in edits]
        pairs = [before[row] for row in image_rows], after
        found: dict[str, Tensor] = {}
        if self.clip is not None:
            captions = self.clip.texts([edit.caption for edit in edits])
            wanted = self.clip.texts([edit.edit_text for edit in edits])
            features = self.clip.images(after)
            found |= clip_scores(self.clip.images(before)[image_rows], features, captions, wanted)
            if self.aesthetic is not None:
                found["aesthetic"] = self.aesthetic(features)[:, 0]
        if self.lpips is not None:
            found["lpips"] = self._perceptual(*pairs)
        if self.dino is not None:
            found["dino_structure"] = self.dino.distance(*pairs)
        if self.dinov2 is not None:
            tokens_before, tokens_after = (self._class_tokens(images) for images in (before, after))
            found["dinov2_image"] = torch.cosine_similarity(tokens_before[image_rows], tokens_after)
        if self.nsfw is not None:
            found["nsfw"] = self._probability(after)
        columns = {name: values.cpu().tolist() for name, values in found.items()}
        return [{name: columns[name][row] for name in columns} for row in range(len(edits))]

    @torch.inference_mode()
    def distances(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> list[float]:
        """LPIPS of each pair of images, (H, W, 3) uint8 each; the lists may be empty."""
        return self._perceptual(before, after).tolist() if len(before) else []

    @torch.inference_mode()
    def agreement(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """CLIP's cosine of each image, (H, W, 3) uint8, and its text; the lists may be empty."""
        if not len(images):
            return []
        assert self.clip is not None
        features = self.clip.images(images), self.clip.texts(texts)
        return torch.cosine_similarity(*features).tolist()

    def _perceptual(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Tensor:
        """(N,): LPIPS of each pair. Pairs of one size are compared together."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, image in enumerate(before):
            groups[image.shape].append(number)
        distances = torch.empty(len(before), device=self.device)
        for _, numbers in sorted(groups.items()):
            pairs = [[images[number] for number in numbers] for images in (before, after)]
            distances[numbers] = self._of_one_size(*pairs)
        return distances

    def _of_one_size(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Tensor:
        assert self.lpips is not None
        network = self.lpips
        distances = self.micro_batch.map(
            lambda rows: network(self._signed(before[rows]), self._signed(after[rows])),
            len(before),
        )
        return torch.cat(distances)

    def _signed(self, images: Sequence[np.ndarray]) -> Tensor:
        """(N, 3, H, W) in [-1, 1]."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
        return (pixels.float() / 127.5 - 1.0).to(self.dtype)

    def _class_tokens(self, images: Sequence[np.ndarray]) -> Tensor:
        """(N, D): DINOv2's embeddings of images, the class token after the last norm."""
        assert self.dinov2 is not None
        network = self.dinov2.network
        return self.dinov2.map(lambda pixels: network(pixels).pooler_output, images)

    def _probability(self, images: Sequence[np.ndarray]) -> Tensor:
        """(N,): the classifier's probability of the configured label."""
        assert self.nsfw is not None
        network = self.nsfw.network
        logits = self.nsfw.map(lambda pixels: network(pixels).logits, images)
        labels = {name: int(number) for number, name in network.config.id2label.items()}
        return logits.softmax(1)[:, labels[self.nsfw_label]]

    def _network(self, kind: Any, files: ScorerFiles, **options: Any) -> Any:
        network = load_network(
            kind,
            files.folder,
            f"scores: {files.folder}",
            variant=files.variant,
            torch_dtype=self.dtype,
            **options,
        )
        return network.to(self.device).eval().requires_grad_(False)

    def _images(self, kind: Any, files: ScorerFiles) -> ImageNetwork:
        return ImageNetwork(self._network(kind, files), _processor(files), self.micro_batch)

    def _clip(self, files: ScorerFiles) -> Clip:
        tokenizer = CLIPTokenizer.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
        network = self._network(CLIPModel, files)
        return Clip(network, _processor(files), tokenizer, self.micro_batch)

    def _lpips(self, net: str, files: ScorerFiles) -> Lpips:
        network = Lpips(net, _tensors(files))
        return network.to(self.device, self.dtype).eval().requires_grad_(False)

    def _head(self, files: ScorerFiles) -> nn.Sequential:
        """Linear layers in sequence without activations, the form of both of LAION's heads."""
        tensors = _tensors(files)
        layers = []
        for name in linear_layers({name: tuple(t.shape) for name, t in tensors.items()}):
            weight = tensors[f"{name}.weight".lstrip(".")].float()
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            bias = tensors.get(f"{name}.bias".lstrip("."), torch.zeros(len(weight)))
            layer.load_state_dict({"weight": weight, "bias": bias.float()})
            layers.append(layer)
        return nn.Sequential(*layers).to(self.device).eval().requires_grad_(False)


def load_scorers(scores: Scores, device: str, stage: Stage) -> Scorers:
    """Loads the scorers for one actor; sets determinism and threads for this process.

    Raises:
        FileNotFoundError, ValueError: see ``probe_scores``.
    """
    make_deterministic()
    disable_progress_bar()
    if device == "cpu":
        torch.set_num_threads(stage.num_threads)
    return Scorers(scores, device, stage.micro_batch)


def _processor(files: ScorerFiles) -> Any:
    """The image processor, with Pillow as backend: the other backend needs torchvision."""
    return AutoImageProcessor.from_pretrained(
        files.folder, local_files_only=True, trust_remote_code=False, backend="pil"
    )


def _tensors(files: ScorerFiles) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in files.weights:
        tensors |= load_file(path)
    return tensors
