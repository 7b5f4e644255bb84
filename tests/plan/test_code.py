"""The hash of the code: what is executed decides it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.plan.code import PACKAGES, CodeDiffersError, check_same_code, code_hash, hash_of

SOURCES = Path(pipeline.__file__).parent


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code") / "pipeline"
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__", "model"))
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "pipeline"))


def changed(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text, f"{path.name} has no {before!r}"
    path.write_text(text.replace(before, after, 1))


def test_the_hash_of_an_installation_is_that_of_its_sources(original: Path) -> None:
    """Wherever they lie; and in another process."""
    assert hash_of(original) == code_hash()
    code = "from pipeline.plan.code import code_hash; print(code_hash())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == code_hash()


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("diffusion/ddim.py", "\n\n\n", "\n\n# a comment\n\n"),
        ("diffusion/ddim.py", '"""', '"""Other words. '),
        ("steps/finish.py", "def finish(", "\n\n\ndef finish("),
    ],
    ids=["comment", "docstring", "layout"],
)
def test_what_is_not_executed_does_not_count(
    copy: Path, file: str, before: str, after: str
) -> None:
    """A comment, a docstring, an empty line: an output can be resumed."""
    changed(copy / file, before, after)
    assert hash_of(copy) == code_hash()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_change_of_what_is_executed_counts_in_every_package(copy: Path, package: str) -> None:
    """One more statement in any file of it."""
    path = sorted((copy / package).rglob("*.py"))[-1]
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert hash_of(copy) != code_hash()


def test_a_new_file_counts(copy: Path) -> None:
    """An override of a method may live in a file of its own."""
    (copy / "stages/other.py").write_text("")
    assert hash_of(copy) != code_hash()


def test_code_that_computes_no_bytes_does_not_count(copy: Path) -> None:
    """The report, say, may change between two runs into one output."""
    path = copy / "report/page.py"
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert hash_of(copy) == code_hash()


def test_a_worker_with_other_code_is_refused() -> None:
    """Both hashes are named."""
    check_same_code(code_hash())
    with pytest.raises(CodeDiffersError, match=f"code {code_hash()}.* driver 000000000000"):
        check_same_code("0" * 12)
