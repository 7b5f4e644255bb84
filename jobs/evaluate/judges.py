"""The judges of an evaluation and their networks: checked at the start, loaded once."""

from __future__ import annotations

import argparse
import hashlib
from functools import cached_property
from pathlib import Path

from jobs.terminal import show
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.demo.editor import load_demo_model
from pipeline.evaluation import demo_world, imagenet
from pipeline.evaluation.class_means import Means, check_real, class_means
from pipeline.evaluation.demo_model import ModelJudge
from pipeline.evaluation.flexit import FlexitJudge
from pipeline.evaluation.measure import Judge
from pipeline.evaluation.region import RegionJudge
from pipeline.evaluation.tasks import BenchmarkError, Task
from pipeline.models.classifier import ImageClassifier, check_classifier
from pipeline.models.inception import Inception, check_inception, load_inception
from pipeline.models.scorers import Scorers, load_scorers
from pipeline.storage.store import Store

OF_IMAGENET = ("inception", "real", "classifier")
OF_DEMO = ("kinds", "card")


class Judging:
    """The judges of a benchmark; their networks are loaded once for all methods of a sweep."""

    def __init__(
        self, options: argparse.Namespace, config: Config, tasks: list[Task], home: Store
    ) -> None:
        """Checks every file that will be needed; computes nothing.

        Raises:
            ConfigError: a file is missing or of another kind, or an option needs another one.
        """
        self.options, self.config, self.home = options, config, home
        self.targets = sorted({str(task.facts.get("target_id", "")) for task in tasks})
        self.num_tasks = len(tasks)
        for benchmark, names in (("imagenet", OF_IMAGENET), ("demo", OF_DEMO)):
            given = [name for name in names if getattr(options, name)]
            if given and options.benchmark != benchmark:
                raise ConfigError(
                    f"--{given[0]} is only for {benchmark}, but the benchmark is "
                    f"{options.benchmark}"
                )
        if options.card and options.sweep:
            raise ConfigError("--card measures one method: leave out --sweep")
        if bool(options.inception) != bool(options.real):
            raise ConfigError("CSFID needs --inception and --real; only one of them is given")
        try:
            if options.inception:
                check_inception(options.inception)
        except (ValueError, OSError) as error:
            raise ConfigError(f"--inception={options.inception!r}: {error}") from error
        try:
            if options.real:
                check_real(Path(options.real), self.targets)
            if options.classifier:
                check_classifier(options.classifier)
        except BenchmarkError as error:
            raise ConfigError(f"--real: {error}") from error
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error

    def make_judges(self, device: str) -> list[Judge]:
        """New judges for the edits of one method.

        Args:
            device: of the run. If this machine has no GPU, the judges use the CPU.
        """
        self.device = _device_here(device)
        if self.options.benchmark == "demo":
            read_back = demo_world.ReadBack()
            return [read_back, self._model_judge()] if self.options.card else [read_back]
        judges: list[Judge] = []
        if self.scorers is not None:
            judges.append(RegionJudge(self.scorers))
        if self.options.benchmark == "imagenet":
            features = None if self.inception is None else self.inception.features
            judges.append(
                FlexitJudge(
                    scorers=self.scorers,
                    classifier=self.classifier,
                    classes=self.classes,
                    features=features,
                    real=self.real,
                )
            )
        return judges

    def _model_judge(self) -> ModelJudge:
        model = load_demo_model(self.config.model.path, threads=self.config.threads)
        return ModelJudge(model, self.config.method, num_scenes=self.num_tasks)

    @cached_property
    def scorers(self) -> Scorers | None:
        """CLIP and LPIPS of the run; the run's rows have its other scores."""
        chosen = self.config.scores.model_copy(
            update=dict.fromkeys(("dino", "dinov2", "aesthetic", "nsfw"))
        )
        if not chosen.chosen:
            return None
        return load_scorers(chosen, self.device, self.config.stages.score)

    @cached_property
    def inception(self) -> Inception | None:
        path = self.options.inception
        return load_inception(path, self.device) if path else None

    @cached_property
    def classifier(self) -> ImageClassifier | None:
        path = self.options.classifier
        return ImageClassifier(path, self.device) if path else None

    @cached_property
    def classes(self) -> list[int]:
        """The target classes of all queries (dev and test), among which the classifier chooses."""
        if self.classifier is None:
            return []
        found = imagenet.target_classes(Path(self.options.data))
        if found[-1] >= self.classifier.num_classes:
            raise ConfigError(
                f"--classifier={self.options.classifier!r}: has {self.classifier.num_classes} "
                f"classes, but the queries need class {found[-1]}; ImageNet has 1,000 classes"
            )
        return found

    @cached_property
    def real(self) -> Means | None:
        if self.inception is None:
            return None
        weights = hashlib.sha256(Path(self.options.inception).expanduser().read_bytes()).hexdigest()
        features = self.inception.features
        real = Path(self.options.real)
        return class_means(real, self.targets, features, weights, self.home, say=show)


def _device_here(device: str) -> str:
    import torch  # takes seconds to import

    return "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"
