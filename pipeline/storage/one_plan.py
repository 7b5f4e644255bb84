"""A folder that a pack or a mix writes holds one plan: finished or not, the same run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.storage.store import Store


def check_same_plan(
    output: Store,
    kind: str,
    *,
    read: Callable[[], dict[str, Any]],
    wanted: dict[str, Any],
    otherwise: str,
    error: type[ValueError],
    prefix: str = "",
) -> None:
    """Checks that a folder is empty, or holds the plan of this run in ``_<kind>/plan.json``.

    Args:
        output: the folder.
        kind: "mix" or "pack": also the plan's section of settings.
        read: the plan that the folder holds.
        wanted: this run's plan, with its ``version``.
        otherwise: how plans differ whose settings are equal.
        error: what to raise.
        prefix: of the settings' keys, in the message.

    Raises:
        ValueError: the folder holds something else; what differs is named. Of the type ``error``.
    """
    names = output.list()
    if f"_{kind}/plan.json" not in names:
        if names:
            raise error(
                f"output.path={output.url!r} holds something other than a {kind}, e.g. "
                f"{next(iter(names))}; choose another folder"
            )
        return
    saved = read()
    if saved == wanted:
        return
    changed = [
        _difference(f"{prefix}{name}", saved[kind].get(name), value)
        for name, value in wanted[kind].items()
        if saved[kind].get(name) != value
    ]
    what = "; ".join(changed) or otherwise
    if saved["version"] != wanted["version"]:
        what = "written by another version, which made it in another way"
    raise error(
        f"output.path={output.url!r} holds another {kind} ({what}); restore this, or choose "
        "another folder"
    )


def _difference(name: str, saved: Any, wanted: Any) -> str:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        keys = sorted(saved.keys() | wanted.keys())
        return ", ".join(
            f"{name}.{key}" for key in keys if saved.get(key, ...) != wanted.get(key, ...)
        )
    return f"{name}: it has {saved!r}, this run asks for {wanted!r}"
