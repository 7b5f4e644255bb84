"""Relative paths of a configuration: finds them, or makes them absolute.

Workers of a cluster and submitted jobs run in other folders than the command.
"""

from __future__ import annotations

import os

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.storage.store import local_path


def relative_paths(config: Config) -> list[tuple[str, str]]:
    """(key, value) of every relative path.

    A model or a scorer that is not a folder here is the name of a hub model. Caches
    (``model.compile_cache``) may be different folders on each node, so they are left out.
    """
    shards = config.input.shards
    paths = [("input.shards", path) for path in ([shards] if isinstance(shards, str) else shards)]
    paths.append(("output.path", config.output.path))
    weights = [("model.path", config.model.path)]
    weights += [(f"model.lora[{n}].path", lora.path) for n, lora in enumerate(config.model.lora)]
    weights += [("model.vae", config.model.vae)] if config.model.vae else []
    weights += [(f"scores.{name}.path", net.path) for name, net in config.scores.chosen.items()]
    paths += [(key, path) for key, path in weights if _is_here(path)]
    return [(key, path) for key, path in paths if is_relative(path)]


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths, so that it means the same in every process.

    Raises:
        ConfigError: ``model.path`` is a relative folder. Rows record it as the user wrote it, so it
            is not changed here.
    """
    shards, model, scores = config.input.shards, config.model, config.scores
    if _is_here(model.path) and is_relative(model.path):
        raise ConfigError(
            f"model.path={model.path!r}: is relative, but the cluster's workers run in other "
            "folders; give an absolute path that every node sees"
        )
    several = [_absolute(path) for path in ([shards] if isinstance(shards, str) else shards)]
    found = {
        name: net.model_copy(update={"path": _absolute(net.path)})
        for name, net in scores.chosen.items()
        if _is_here(net.path)
    }
    loras = [
        lora.model_copy(update={"path": _absolute(lora.path)}) if _is_here(lora.path) else lora
        for lora in model.lora
    ]
    vae = _absolute(model.vae) if model.vae and _is_here(model.vae) else model.vae
    return config.model_copy(
        update={
            "model": model.model_copy(update={"lora": loras, "vae": vae}),
            "input": config.input.model_copy(
                update={"shards": several[0] if isinstance(shards, str) else several}
            ),
            "output": config.output.model_copy(update={"path": _absolute(config.output.path)}),
            "scores": scores.model_copy(update=found),
        }
    )


def _is_here(weights: str) -> bool:
    return weights != "bundled" and os.path.exists(weights)


def is_relative(path: str) -> bool:
    """Whether a path depends on the current folder; a url does not."""
    local = path.removeprefix("file://").removeprefix("local://")
    return "://" not in local and not os.path.isabs(os.path.expanduser(local))


def _absolute(path: str) -> str:
    return local_path(path) if is_relative(path) else path
