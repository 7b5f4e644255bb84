"""Local paths of a configuration that hang on the folder of the process that reads them.

Workers of a cluster have other folders than its driver, and a submitted job has one of its own.
"""

from __future__ import annotations

import os

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.storage.store import local_path


def relative_paths(config: Config) -> list[tuple[str, str]]:
    """Key and value of every relative path; a model or a scorer that is no folder here is a hub's.

    Files that are kept beside a path (``model.compile_cache``) may lie elsewhere on each node.
    """
    shards = config.input.shards
    paths = [("input.shards", path) for path in ([shards] if isinstance(shards, str) else shards)]
    paths.append(("output.path", config.output.path))
    weights = [("model.path", config.model.path)]
    weights += [(f"scores.{name}.path", net.path) for name, net in config.scores.chosen.items()]
    paths += [(key, path) for key, path in weights if _is_here(path)]
    return [(key, path) for key, path in paths if _is_relative(path)]


def with_absolute_paths(config: Config) -> Config:
    """The same for every process that sees these files, whatever its folder.

    Raises:
        ConfigError: ``model.path`` is a relative folder; every row says it as it was written, so
            it is not written otherwise here.
    """
    shards, model, scores = config.input.shards, config.model, config.scores
    if _is_here(model.path) and _is_relative(model.path):
        raise ConfigError(
            f"model.path={model.path!r}: is a folder below this one, and the cluster's workers "
            "have others; give an absolute path that every node sees"
        )
    several = [_absolute(path) for path in ([shards] if isinstance(shards, str) else shards)]
    found = {
        name: net.model_copy(update={"path": _absolute(net.path)})
        for name, net in scores.chosen.items()
        if _is_here(net.path)
    }
    return config.model_copy(
        update={
            "input": config.input.model_copy(
                update={"shards": several[0] if isinstance(shards, str) else several}
            ),
            "output": config.output.model_copy(update={"path": _absolute(config.output.path)}),
            "scores": scores.model_copy(update=found),
        }
    )


def _is_here(weights: str) -> bool:
    return weights != "bundled" and os.path.exists(weights)


def _is_relative(path: str) -> bool:
    local = path.removeprefix("file://").removeprefix("local://")
    return "://" not in local and not os.path.isabs(os.path.expanduser(local))


def _absolute(path: str) -> str:
    return local_path(path) if _is_relative(path) else path
