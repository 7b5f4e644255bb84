"""TEdBench (Kawar et al., Imagic, arXiv:2210.09276): 100 target texts for 40 images.

    DATA/input_list.json     [{"img_name": ..., "target_text": ...}, ...]
    DATA/.../<img_name>      in the folder itself or in one below it

The benchmark has no captions. You can add a "caption" to an entry. Masks are inferred against the
empty text (``method.mask.reference: empty``), so a missing caption has no effect on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.evaluation.tasks import BenchmarkError, Task, field_of, read_image, read_json

ENTRIES = "input_list.json"
NO_CAPTION = "a photo"
OVERRIDES = ("method.mask.reference=empty",)
PUBLISHED: dict[str, dict[str, float]] = {}  # the paper has a user study, and no such figures
COLUMNS = ("lpips_e3", "clip_whole", "clip_image", "structure_e3", "edit_rms")
NOTES = ("The benchmark has no captions and no annotated regions; its paper has a user study.",)


def read_tasks(data: Path) -> Iterator[Task]:
    """The tasks in the order of the list.

    Raises:
        BenchmarkError: a file is missing or not unique, or an entry does not have the expected
            format.
    """
    entries = read_json(data / ENTRIES)
    if not isinstance(entries, list):
        raise BenchmarkError(f"{data / ENTRIES}: must be a list of entries")
    for number, entry in enumerate(entries):
        where = f"{data / ENTRIES}: entry {number}"
        name = str(field_of(entry, "img_name", where))
        image, suffix = read_image(_found(data, name, where), where)
        yield Task(
            key=f"{number:03d}",
            image=image,
            suffix=suffix,
            caption=str(entry.get("caption") or NO_CAPTION),
            edit_text=str(field_of(entry, "target_text", where)),
            group=Path(name).stem,
            facts={"img_name": name},
        )


def _found(data: Path, name: str, where: str) -> Path:
    """The only file with this name in the folder or below it."""
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise BenchmarkError(f"{where}: img_name {name!r} is not a file name")
    direct = data / name
    if direct.is_file():
        return direct
    found = sorted(path for path in data.rglob("*") if path.name == name and path.is_file())
    if len(found) != 1:
        raise BenchmarkError(f"{where} names {name!r}: {len(found)} such files below {data}")
    return found[0]
