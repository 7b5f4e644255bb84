"""A small hub on 127.0.0.1 for tests: commits that move, gates, broken bodies and busy answers."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TREE = re.compile(r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?")
INFO = re.compile(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?")
PATHS = re.compile(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)")
FILE = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
LFS = (".safetensors", ".bin", ".tar")


@dataclass
class Fault:
    """What goes wrong with the next requests for paths that contain ``path``.

    Attributes:
        status: is answered instead.
        cut: bytes after which the body ends too early.
        reset: with ``cut``: the connection is reset instead of closed.
        damage: the body has one wrong byte.
        stall_s: seconds before the answer.
        times: how many requests.
    """

    path: str
    status: int = 0
    cut: int | None = None
    reset: bool = False
    damage: bool = False
    stall_s: float = 0.0
    times: int = 1
    method: str = "GET"


@dataclass
class Repo:
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gate: str | None = None  # the token that passes
    forbidden: bool = False


@dataclass
class SmallHub:
    """The hub's content, its faults, and what was asked of it."""

    port: int = 0
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    ranges: list[str] = field(default_factory=list)  # of requests that asked for a part

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, name: str, folder: Path, branch: str = "main") -> str:
        """Puts a folder's files as a commit of owner/name, and moves the branch to it."""
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        repo = self.repos.setdefault(name, Repo())
        commit = hashlib.sha1(f"{name} {folder} {len(repo.commits)}".encode()).hexdigest()
        repo.commits[commit] = files
        repo.branches[branch] = commit
        return commit

    def fail(self, path: str, **kind: Any) -> None:
        """Lets the next requests for a path fail, see ``Fault``."""
        self.faults.append(Fault(path, **kind))

    def got(self, pattern: str) -> list[str]:
        """The paths of GET requests that contain a pattern, in order."""
        found = (path for method, path in self.requests if method == "GET")
        return [path for path in found if re.search(pattern, path)]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: SmallHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """What is at some paths of a data set: files, or folders."""
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        match = PATHS.fullmatch(path)
        if match is None or not (found := self._find(*match.groups())):
            return
        files, entries = found[1], []
        for wanted in body.get("paths", []):
            if wanted in files:
                entries.append(_entry(wanted, files[wanted]))
            elif any(name.startswith(f"{wanted}/") for name in files):
                entries.append({"type": "directory", "path": wanted, "oid": "0" * 40})
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        fault = self._fault(path)
        if fault is not None and fault.stall_s:
            threading.Event().wait(fault.stall_s)  # tests may replace time.sleep
        if fault is not None and fault.status:
            self._send(fault.status, b"", {"X-Error-Message": "not now"})
        elif match := TREE.fullmatch(path):
            self._tree(*match.groups())
        elif match := INFO.fullmatch(path):
            if found := self._find(match[1], match[2] or "main"):
                tree: dict[str, Any] = {"id": match[1], "sha": found[0], "siblings": [], "tags": []}
                self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif match := FILE.fullmatch(path):
            self._file(match[1], match[2], match[3], fault)
        else:
            self._send(404, b"", {})

    def _fault(self, path: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.path in path and fault.times > 0 and fault.method == self.command:
                fault.times -= 1
                return fault
        return None

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, Path]] | None:
        """Commit and files; if there are none, the error is sent."""
        repo = self.hub.repos.get(name)
        if repo is None:
            status = 404 if self.headers.get("Authorization") else 401
            said = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._send(status, b"", said)
            return None
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            said = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
            self._send(404, b"", said)
            return None
        return commit, repo.commits[commit]

    def _tree(self, name: str, revision: str, folder: str | None) -> None:
        if not (found := self._find(name, revision)):
            return
        start = f"{folder}/" if folder else ""
        entries = [
            _entry(path, file) for path, file in sorted(found[1].items()) if path.startswith(start)
        ]
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str, fault: Fault | None) -> None:
        if not (found := self._find(name, revision)):
            return
        repo = self.hub.repos[name]
        if repo.forbidden:
            self._send(403, b"", {"X-Error-Message": "Not for your region"})
            return
        if repo.gate is not None and self.headers.get("Authorization") != f"Bearer {repo.gate}":
            said = {
                "X-Error-Code": "GatedRepo",
                "X-Error-Message": f"Access to model {name} is restricted",
            }
            self._send(403 if self.headers.get("Authorization") else 401, b"", said)
            return
        commit, files = found
        if path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = files[path].read_bytes()
        is_lfs = path.endswith(LFS)
        etag = hashlib.sha256(data).hexdigest() if is_lfs else _git_hash(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        status, size = 200, len(data)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            self.hub.ranges.append(wanted[0])
            first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            status, data = 206, data[first : last + 1]
        if fault is not None and fault.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._send(status, data, headers, fault)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.cut is None:
            self.wfile.write(data)
            return
        self.wfile.write(data[: fault.cut])
        self.wfile.flush()
        if fault.reset:  # with a linger time of zero, close sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _entry(path: str, file: Path) -> dict[str, Any]:
    """A file as the hub lists it."""
    data = file.read_bytes()
    entry = {"type": "file", "path": path, "size": len(data), "oid": _git_hash(data)}
    if path.endswith(LFS):
        oid = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
    return entry


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving() -> Iterator[SmallHub]:
    """A hub that answers while inside the context."""
    hub = SmallHub()
    handler = type("Answers", (_Answers,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: SmallHub, cache: Path) -> None:
    """Lets the hub's client in this process ask this hub, with an empty cache and no token."""
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache / "no token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
