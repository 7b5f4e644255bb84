"""Finds a commit on the hub, or in the hub's cache."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from pipeline.models.hub_errors import HubOfflineError, Wanted, explained
from pipeline.models.hub_requests import asked, in_words
from pipeline.models.hub_snapshot import OURS, HubFile, Snapshot
from pipeline.models.small_files import read_small, write_small

COMMIT = re.compile(r"[0-9a-f]{40}")

log = logging.getLogger(__name__)


def find_snapshot(option: str, name: str, revision: str | None) -> Snapshot:
    """Finds a commit on the hub, or in the cache, without downloading more than its listing.

    A commit that is cached with its listing needs no call to the hub: so a worker, which is given
    the commit that the driver found, neither waits for the hub nor sees a branch that has moved.
    Where the hub cannot be asked, a branch is the commit that the cache last had for it.

    Args:
        option: the configuration key or command-line option that holds the id.
        name: owner/name.
        revision: branch, tag or commit; None for the default branch.

    Raises:
        HubError: there is no such model or revision, or no access to it, or no answer.
    """
    wanted = Wanted(option, name, revision)
    cache = Path(constants.HF_HUB_CACHE).expanduser() / f"models--{name.replace('/', '--')}"
    with in_words(wanted):
        commit = revision or ""
        if not COMMIT.fullmatch(commit):
            commit = _resolved(wanted, cache)
        return Snapshot(wanted, commit, cache, _listing(wanted, cache, commit))


def _resolved(wanted: Wanted, cache: Path) -> str:
    """The commit of a branch or tag; the cache keeps it, for a start without the hub."""
    branch = wanted.revision or constants.DEFAULT_REVISION
    ref = cache / "refs" / branch
    try:
        found = asked(
            lambda: HfApi().model_info(wanted.name, revision=branch),
            f"hub: find {branch} of {wanted.name}",
            patient=False,
        )
    except Exception as error:
        commit = (read_small(ref) or b"").decode().strip()
        if _is_denied(error) or not COMMIT.fullmatch(commit):
            raise
        if not isinstance(error, HubOfflineError):
            line = "%s; taking commit %s, which is in the cache"
            log.warning(line, explained(error, wanted), commit)
        return commit
    commit = str(found.sha)
    if read_small(ref) != commit.encode():
        write_small(ref, commit.encode())
    return commit


def _listing(wanted: Wanted, cache: Path, commit: str) -> dict[str, HubFile]:
    """The files of a commit. A commit never changes, so its listing is asked for once."""
    kept = cache / OURS / f"{commit}.files.json"
    if (data := read_small(kept)) is not None:
        try:
            return {name: HubFile(*entry) for name, entry in json.loads(data).items()}
        except (ValueError, TypeError, AttributeError):
            log.warning("%s is damaged; asking the hub again", kept)
    if (files := _listed_by_client(wanted, commit)) is not None:
        return files
    try:
        entries = asked(
            lambda: list(HfApi().list_repo_tree(wanted.name, recursive=True, revision=commit)),
            f"hub: list {wanted.name}",
            patient=False,
        )
    except Exception as error:  # whatever the hub says: what is cached can be used
        folder = cache / "snapshots" / commit
        if not folder.is_dir():
            raise
        if not isinstance(error, HubOfflineError):
            line = "%s; taking the files of commit %s that are in the cache"
            log.warning(line, explained(error, wanted), commit)
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {p.relative_to(folder).as_posix(): HubFile(p.stat().st_size) for p in paths}
    files = {
        entry.path: HubFile(entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if isinstance(entry, RepoFile)
    }
    tree = {name: [file.size, file.sha256] for name, file in files.items()}
    write_small(kept, json.dumps(tree, indent=1).encode())
    return files


def _listed_by_client(wanted: Wanted, commit: str) -> dict[str, HubFile] | None:
    """The listing that the hub's client keeps when it downloads a snapshot, as `hf download` does.

    It has no hashes; the cache itself names files in LFS by theirs.
    """
    try:
        from huggingface_hub import get_cached_repo_tree  # the client has it since version 2
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:
        return None
    try:
        entries = get_cached_repo_tree(wanted.name, revision=commit)
    except CachedRepoTreeNotFoundError:
        return None
    return {entry.path: HubFile(entry.size) for entry in entries}


def _is_denied(error: Exception) -> bool:
    """Whether the hub says that there is nothing of this name; a gate is no such answer."""
    missing = RevisionNotFoundError, RepositoryNotFoundError
    return isinstance(error, missing) and not isinstance(error, GatedRepoError)
