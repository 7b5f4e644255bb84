"""Paths of a configuration that mean another place in another process, or none.

Workers of a cluster and submitted jobs run in other folders than the command: relative paths are
found, or made absolute. Nor do they see the memory of its process.
"""

from __future__ import annotations

import os

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.storage.urls import local_path, protocol_of

OF_ONE_PROCESS = "memory:// is the memory of one process"


def check_stores(config: Config) -> None:
    """Refuses stores that only one process can see.

    Raises:
        ConfigError: input or output is memory://.
    """
    for key, url in _stores(config):
        if is_of_one_process(url):
            raise ConfigError(
                f"{key}={url!r}: {OF_ONE_PROCESS}, but Ray uses several; "
                "give a path or the url of a bucket (only the local loop, "
                "pipeline/execution/local_loop.py, can use memory://)"
            )


def is_of_one_process(path: str) -> bool:
    """Whether only the process that writes a path can read it."""
    return protocol_of(path) == "memory"


def relative_paths(config: Config) -> list[tuple[str, str]]:
    """(key, value) of every relative path.

    A model or a scorer that is not a folder here is the name of a hub model. Caches
    (``model.compile_cache``) may be different folders on each node, so they are left out.
    """
    paths = _stores(config)
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


def _stores(config: Config) -> list[tuple[str, str]]:
    """(key, path or url) of input and output."""
    shards = config.input.shards
    inputs = [("input.shards", path) for path in ([shards] if isinstance(shards, str) else shards)]
    return [*inputs, ("output.path", config.output.path)]


def _is_here(weights: str) -> bool:
    return weights != "bundled" and os.path.exists(weights)


def is_relative(path: str) -> bool:
    """Whether a path depends on the current folder; a url does not."""
    local = path.removeprefix("file://").removeprefix("local://")
    return "://" not in local and not os.path.isabs(os.path.expanduser(local))


def _absolute(path: str) -> str:
    return local_path(path) if is_relative(path) else path
