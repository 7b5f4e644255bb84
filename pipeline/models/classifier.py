"""An image classifier from transformers that picks the most likely of some of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers import AutoModelForImageClassification as Network

from pipeline.config.scores import Weights
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.score_weights import locate
from pipeline.models.weights import load_network

NEEDED = (("config.json",), ("preprocessor_config.json",))


class ImageClassifier:
    """Takes whole images at the network's own size; its folder says how they are normalized."""

    def __init__(self, path: str, device: str, micro_batch: int = 32) -> None:
        """
        Args:
            path: a folder in transformers' format, or a hub id.
            device: the device to compute on.
            micro_batch: images per network call.

        Raises:
            FileNotFoundError, ValueError: see ``pipeline.models.score_weights.locate``.
        """
        folder = check_classifier(path)
        network = load_network(Network, Path(folder), f"--classifier {path}")
        self.network = network.to(device).eval().requires_grad_(False)
        # Pillow's backend: the other one needs torchvision
        self.processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
        self.micro_batch = MicroBatch(micro_batch)

    @property
    def side(self) -> int:
        """Side length of the network's input in pixels."""
        return int(self.network.config.image_size)

    @property
    def num_classes(self) -> int:
        return int(self.network.config.num_labels)

    @torch.inference_mode()
    def most_likely(self, images: Sequence[np.ndarray], among: Sequence[int]) -> list[int]:
        """For each image, the class in ``among`` with the greatest logit.

        Args:
            images: (side, side, 3) uint8 each.
            among: class numbers.
        """
        chosen = torch.tensor(among, device=self.network.device)

        def logits(rows: slice) -> torch.Tensor:
            given = self.processor(
                images=list(images[rows]),
                do_resize=False,
                do_center_crop=False,
                return_tensors="pt",
            )
            output: torch.Tensor = self.network(
                given["pixel_values"].to(self.network.device)
            ).logits
            return output

        found = self.micro_batch.map(lambda rows: logits(rows)[:, chosen].argmax(1), len(images))
        return chosen[torch.cat(found)].tolist() if found else []


def check_classifier(path: str) -> str:
    """Finds a classifier's files at start-up and returns their folder.

    Raises:
        FileNotFoundError, ValueError: as ``locate``.
    """
    return str(locate("--classifier", Weights(path=path), NEEDED, hash_files=False).folder)
