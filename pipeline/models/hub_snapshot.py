"""One commit of a hub model in the hub's cache: fetched once a node, and checked before use."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

# both are exported, without being marked so
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    disable_progress_bars,
)

from pipeline.models.file_hashes import SHA256, FileHashes
from pipeline.models.hub_errors import HubError, Wanted
from pipeline.models.hub_requests import asked, in_words
from pipeline.models.small_files import read_small, write_small

PARALLEL = 8  # downloads at a time, as in the hub's own client
OURS = "overpaint"  # folder in a model's cache: listings, and which files are checked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A file of a commit, as the hub lists it.

    Attributes:
        size: in bytes.
        sha256: of files in LFS, which all weights are; None for small text files.
    """

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """One commit of a hub model.

    Attributes:
        wanted: the settings that ask for it.
        commit: 40 hexadecimal digits.
        cache: the model's folder in the hub's cache.
        files: all files of the commit, cached or not.
    """

    wanted: Wanted
    commit: str
    cache: Path
    files: Mapping[str, HubFile]

    @property
    def folder(self) -> Path:
        """Where the files are once they are fetched."""
        return self.cache / "snapshots" / self.commit

    def fetch(self, names: Iterable[str]) -> None:
        """Downloads the files that are not cached; without any there is no call to the hub.

        Raises:
            HubError: a file cannot be downloaded.
        """
        missing = [name for name in names if not (self.folder / name).is_file()]
        if not missing:
            return
        disable_progress_bars()  # a bar for every file would flood the job's output
        with in_words(self.wanted), ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(self._download, missing))

    def fetch_checked(self, names: Iterable[str]) -> None:
        """Downloads files, and compares size and sha256 of each with the hub's listing.

        Processes that share a cache wait for each other: one downloads and reads the files, the
        others find them checked. A damaged file is downloaded once more.

        Raises:
            HubError: a file cannot be downloaded, or is damaged again.
        """
        names = sorted(set(names))
        with self._alone():
            missing = [name for name in names if not (self.folder / name).is_file()]
            if missing:
                num_bytes = sum(self.files[name].size for name in missing if name in self.files)
                size = f"{len(missing)} files, {num_bytes / 1e9:.1f} GB"
                log.info("%s: downloading %s to %s", self.wanted.key, size, self.cache)
                start = time.monotonic()
                self.fetch(missing)
                log.info("%s: came in %.0f s", self.wanted.key, time.monotonic() - start)
            checked = self.cache / OURS / f"{self.commit}.checked.json"
            hashes = FileHashes.from_json(read_small(checked) or b"{}")
            for name in names:
                if reason := self._damage(name, hashes):
                    log.warning("%s: %s; downloading it again", self.wanted.key, reason)
                    self._remove(name)
                    self.fetch([name])
                    if reason := self._damage(name, hashes):
                        raise HubError(f"{self.wanted.key}: {reason}, and so it is after a new one")
            write_small(checked, hashes.to_json(forget=False))  # other runs load other files

    def tensor_shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors in a safetensors file, of which only the header comes.

        Raises:
            HubError: the file cannot be read.
        """
        with in_words(self.wanted):
            header = asked(
                lambda: HfApi().parse_safetensors_file_metadata(
                    self.wanted.name, name, revision=self.commit
                ),
                f"hub: get the header of {name} of {self.wanted.name}",
            )
        return {tensor: tuple(info.shape) for tensor, info in header.tensors.items()}

    def _download(self, name: str) -> None:
        asked(
            lambda: hf_hub_download(self.wanted.name, name, revision=self.commit),
            f"hub: get {name} of {self.wanted.name}",
        )

    def _damage(self, name: str, hashes: FileHashes) -> str | None:
        """How a cached file differs from the listing; None if it does not."""
        path, listed = self.folder / name, self.files.get(name)
        size = path.stat().st_size
        if listed is not None and size != listed.size:
            return f"{path} has {size} bytes, and {listed.size} on the hub"
        # without a listing: the cache names the content of a file in LFS by its hash
        blob = path.readlink().name if path.is_symlink() else ""
        wanted = listed.sha256 if listed is not None else None
        wanted = wanted or (blob if SHA256.fullmatch(blob) else None)
        if wanted is not None and (found := hashes.sha256(path)) != wanted:
            return f"{path} has sha256 {found}, and {wanted} on the hub"
        return None

    def _remove(self, name: str) -> None:
        path = self.folder / name
        if path.is_symlink():
            path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time; a cache that cannot be written needs no lock."""
        lock = self.cache / OURS / f"{self.commit}.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError:
            yield
            return
        with WeakFileLock(lock):
            yield
