"""Which tars a run reads, their names, and which entries are refused."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from pipeline.storage import matches
from pipeline.storage.local_folder import Stat
from pipeline.storage.shards import check_output, expand_shards, list_shards
from pipeline.storage.store import ChangedError, Store
from pipeline.storage.urls import check_url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a", "sub/c", "_run/x", "10", "9"):
        path = tmp_path / "in" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "in" / "notes.txt").write_text("no tar")
    return tmp_path / "in"


def names(*shards: str) -> list[str]:
    return [shard.name for shard in expand_shards(list(shards))]


def test_each_way_to_name_shards(folder: Path) -> None:
    """A file, a list, a glob, a brace pattern and a folder give sorted names."""
    assert names(f"{folder}/a.tar") == ["a"]
    assert names(f"{folder}/b.tar", f"{folder}/a.tar") == ["a", "b"]
    assert names(f"{folder}/*.tar") == ["10", "9", "a", "b"]
    assert names(f"{folder}/{{9..10}}.tar") == ["10", "9"]
    assert names(f"{folder}/{{a,b}}.tar") == ["a", "b"]
    assert names(str(folder)) == ["10", "9", "a", "b", "sub/c"]
    assert names(f"{folder}/**/c.tar") == ["sub/c"]
    assert names(f"file://{folder}/[ab].tar") == ["a", "b"]


def test_a_shard_named_twice_is_read_once(folder: Path) -> None:
    """A glob and a file may overlap."""
    assert names(f"{folder}/a.tar", f"{folder}/[ab].tar") == ["a", "b"]


def test_names_do_not_change_when_shards_are_added(folder: Path) -> None:
    """A name is relative to the pattern's folder, whatever else matches."""
    assert names(f"{folder}/[so]*/*.tar") == ["sub/c"]
    (folder / "other").mkdir()
    (folder / "other" / "d.tar").write_bytes(b"d")
    assert names(f"{folder}/[so]*/*.tar") == ["other/d", "sub/c"]


def test_shards_on_other_schemes_are_listed_alike() -> None:
    """memory:// stands in for buckets: glob, folder, braces and file."""
    bucket = f"memory://{uuid.uuid4().hex}/in"
    store = Store(bucket)
    for name in ("00.tar", "01.tar", "deep/02.tar", "readme.md"):
        store.put(name, name.encode())
    assert names(f"{bucket}/*.tar") == ["00", "01"]
    assert names(bucket) == ["00", "01", "deep/02"]
    assert names(f"{bucket}/{{00..01}}.tar") == ["00", "01"]
    shard = expand_shards(f"{bucket}/01.tar")[0]
    assert (shard.size, shard.read()) == (6, b"01.tar")


@pytest.mark.parametrize(
    "pattern", ["*.zip", "missing.tar", "{0..3}.tar", "nowhere", "notes.txt", "{a.tar"]
)
def test_no_match_names_the_key_the_value_and_what_is_allowed(folder: Path, pattern: str) -> None:
    """A pattern without a match is an error that says how to correct it."""
    with pytest.raises(ValueError, match=r"input\.shards: .*allowed is a \.tar") as caught:
        expand_shards(f"{folder}/{pattern}")
    assert str(folder) in str(caught.value)


def test_what_is_left_out_of_a_folder_is_said(folder: Path, tmp_path: Path) -> None:
    """Files that are no shards, and folders that are links; names in any case are shards."""
    for name in ("B2.TAR", "c.tar.gz", "d.tgz", "e.tar.zst"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for entry in (str(folder), f"{folder}/*"):
        listing = list_shards(entry)
        assert {"B2", "c", "d", "e"} < {shard.name for shard in listing.shards}
        files, links = listing.left_out
        assert "1 files were left out, since their names do not end in .tar" in files
        assert "'notes.txt'" in files
        assert f"1 folders were left out, since they are links; {NAME_THEM}" in links
        assert f"'{folder}/linked'" in links
    assert list_shards(f"{folder}/*.tar").left_out == []


NAME_THEM = "name them to read them"


def test_a_name_with_a_bracket_is_a_name_first(tmp_path: Path) -> None:
    """A file or folder of exactly that name is read; else the error says what [ means."""
    (tmp_path / "set [v1]").mkdir()
    (tmp_path / "set [v1]" / "a.tar").write_bytes(b"x")
    for entry in ("set [v1]", "set [v1]/a.tar", "set [[]v1]/*.tar"):
        assert names(f"{tmp_path}/{entry}")[0].endswith("a"), entry
    assert names(f"{tmp_path}/set [v1]") == ["a"]
    with pytest.raises(ValueError, match=r"\[ begins a set of characters; \[\[\] is the char"):
        expand_shards(f"{tmp_path}/set [v1]/*.tar")


@pytest.mark.parametrize("url", ["s3://b/in//*.tar", "s3://b//in", "gs://b/a/../c.tar", "az://b/."])
def test_a_url_is_never_read_as_another_one(url: str) -> None:
    """in//00.tar and in/00.tar are two objects: what cannot be named is refused, not guessed."""
    with pytest.raises(ValueError, match=r"no part of a url may be empty, '\.' or '\.\.'"):
        expand_shards(url)
    with pytest.raises(ValueError, match=r"no part of a url may be empty, '\.' or '\.\.'"):
        Store(url.replace("*.tar", "out"))


@pytest.mark.parametrize("url", ["memory://", "memory:///in", "s3://b/in/", "file:///a//b"])
def test_other_urls_are_taken(url: str) -> None:
    """A trailing slash, a path of this machine, and memory:// with and without a slash."""
    check_url(url)


def test_a_listed_object_with_an_empty_part_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder of a bucket may hold in//00.tar beside in/00.tar."""
    listed = [("/00.tar", Stat(1, "e")), ("01.tar", Stat(1, "e"))]

    def missing(name: str) -> Stat:
        raise FileNotFoundError(name)

    bucket = SimpleNamespace(stat=missing, each=lambda *_, **__: iter(listed))
    monkeypatch.setattr(matches, "open_backend", lambda url, options: bucket)
    with pytest.raises(ValueError, match=r"'s3://bucket/in//00\.tar' .* may be empty"):
        expand_shards("s3://bucket/in")


def test_commands_are_refused() -> None:
    """webdataset's pipe: urls would run a program."""
    with pytest.raises(ValueError, match="pipe: urls run commands"):
        expand_shards("pipe:cat x.tar")


def test_names_that_clash_are_an_error(folder: Path) -> None:
    """Two stores without a common folder may hold the same path."""
    Store(f"memory://{folder}").put("a.tar", b"x")
    with pytest.raises(ValueError, match="both be written as"):
        expand_shards([f"{folder}/a.tar", f"memory://{folder}/a.tar"])


def test_names_of_the_outputs_own_folders_are_refused(folder: Path) -> None:
    """A shard named _run/x would be written among the run's own files."""
    with pytest.raises(ValueError, match="are reserved for the output itself"):
        expand_shards([f"{folder}/a.tar", f"{folder}/_run/x.tar"])


@pytest.mark.parametrize(
    "name", [b"a\n.tar", b"a\x1b[2J.tar", b"a\xff.tar", "a\u202egpj.tar".encode(), b"\x7f/a.tar"]
)
def test_names_that_cannot_be_shown_are_refused(name: bytes, tmp_path: Path) -> None:
    """Control characters, and bytes that are not UTF-8; the message itself shows none."""
    path = os.fsencode(tmp_path) + b"/in/" + name
    os.makedirs(os.path.dirname(path))
    Path(os.fsdecode(path)).write_bytes(b"x")
    with pytest.raises(ValueError, match="control characters in its name, or bytes that") as caught:
        expand_shards(f"{tmp_path}/in/**/*.tar")
    assert str(caught.value).isprintable()


def test_names_with_markup_are_written_as_they_are(tmp_path: Path) -> None:
    """Rich's markup and other scripts are names like any other."""
    for name in ("[/x]", "[bold]", ":smile:", "犬", "a b%"):
        Store(f"{tmp_path}/in").put(f"{name}.tar", b"x")
    assert names(f"{tmp_path}/in") == sorted(["[/x]", "[bold]", ":smile:", "犬", "a b%"])


@pytest.mark.parametrize(
    "name", ["a.tar/b", "a.parquet/b", "a_stats.json/b", "a.json/b", "a/00000-of-00001.arrow/b"]
)
def test_a_folder_called_like_another_shards_file_is_refused(name: str) -> None:
    """Shard a writes a.parquet, so nothing can be written into a folder of that name."""
    folder = f"memory://{uuid.uuid4().hex}"
    Store(folder).put(f"deep/{name}.tar", b"x")
    assert names(folder) == [f"deep/{name}"]
    Store(folder).put("deep/a.tar", b"x")
    with pytest.raises(ValueError, match=r"but the shard 'deep/a' writes a file of that name"):
        expand_shards(folder)


def test_output_and_input_must_not_overlap(folder: Path) -> None:
    """An output that is the input, contains it, or lies below an input folder is refused."""
    glob = f"{folder}/*.tar"
    shards = expand_shards(glob)
    for output in (str(folder), str(folder.parent), f"file://{folder}/"):
        with pytest.raises(ValueError, match=r"output\.path: .* contains the input shard"):
            check_output(output, shards, glob)
    check_output(f"{folder}/out", shards, glob)
    with pytest.raises(ValueError, match="read its own output"):
        check_output(f"{folder}/out", shards, str(folder))
    check_output(f"{folder.parent}/input2", shards, str(folder))


def test_a_shard_that_changed_since_its_listing_is_not_read(folder: Path) -> None:
    """Reading it raises ChangedError."""
    shard = expand_shards(f"{folder}/a.tar")[0]
    (folder / "a.tar").write_bytes(b"another")
    with pytest.raises(ChangedError):
        shard.read()


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_shard_has_one_size_and_etag_however_it_was_listed(scheme: str, tmp_path: Path) -> None:
    """A glob, a folder and the file's own name give equal records, and each can be read."""
    url = f"{scheme}{tmp_path}/{uuid.uuid4().hex}"
    Store(url).put("a.tar", b"some bytes")
    found = [expand_shards(f"{url}{rest}") for rest in ("/*.tar", "", "/a.tar", "/**/*.tar")]
    assert found == [found[0]] * 4
    assert found[0][0].read() == b"some bytes"


@pytest.mark.parametrize("pattern", ["*.tar", "?.tar", "a[0-9]*.tar", "*", "b*/*.tar", "**/*.tar"])
@pytest.mark.parametrize("place", ["", "memory://"])
def test_patterns_match_what_fsspec_matches(pattern: str, place: str, tmp_path: Path) -> None:
    """This holds for patterns that one listing answers and for those that fsspec expands."""
    root = f"{place}{tmp_path}/in"
    for name in ("a.tar", "a1.tar", "a2b.tar", ".c.tar", "b/a.tar", "b/c/a3.tar", "a9.txt"):
        Store(root).put(name, b"")
    expected = fsspec.filesystem(place.partition(":")[0] or "file").glob(f"{root}/{pattern}")
    expected = sorted(path for path in expected if path.endswith(".tar"))
    assert expected
    found = [shard.url.removeprefix(place) for shard in expand_shards(f"{root}/{pattern}")]
    assert sorted(path.lstrip("/") for path in found) == [path.lstrip("/") for path in expected]
