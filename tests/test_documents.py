"""The documents: their links, paths, contents and tables hold, and their code runs as written."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from jobs import exit_codes
from jobs.arguments import parse_arguments
from jobs.cli import COMMANDS
from pipeline.records.rows import COLUMNS
from tests.test_imports import ALLOWED

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "jobs/README.md",
    "configs/README.md",
    "infra/README.md",
    "infra/benchmarks/README.md",
    "pipeline/README.md",
)
DOCUMENTS = (
    "README.md",
    *PAGES,
    "pipeline/demo/model/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
README_BYTES = 8192
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# A file below one of the folders of the checkout, in backticks, a command or a sentence.
FILE = re.compile(
    r"(?<![\w/.:-])(?:\.ci|configs|infra|jobs|pipeline|tests)/[\w./-]*"
    r"\.(?:py|md|ya?ml|json|png|sbatch|toml|js)\b"
)
MODULE = re.compile(r"python -m ((?:infra|jobs|pipeline)[\w.]*)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def headings_of(document: str) -> list[tuple[int, str]]:
    """Level and text of each heading; what looks like one in a block of code is none."""
    prose = FENCE.sub("", text_of(document))
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose, re.MULTILINE)]


def anchor(heading: str) -> str:
    """The fragment that leads to a heading, as GitHub and GitLab make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section_of(document: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    level = next(level for level, title in headings_of(document) if title == heading)
    start = re.split(rf"^{'#' * level} {re.escape(heading)}$", text_of(document), flags=re.M)[1]
    return re.split(rf"^#{{1,{level}}} ", start, flags=re.M)[0]


def table_rows(text: str) -> list[list[str]]:
    """The cells of every line of a table, headers included."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def python_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(document), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    """The file is there, and so is the heading that the fragment names."""
    folder = (ROOT / document).parent
    links = [link for link in LINK.findall(FENCE.sub("", text_of(document))) if ":" not in link]
    for link in links:
        path, _, fragment = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / document
        assert target.exists(), f"{document}: {link}: no such file"
        if fragment:
            name = str(target.relative_to(ROOT))
            anchors = {anchor(title) for _, title in headings_of(name)}
            assert fragment in anchors, f"{document}: {link}: {name} has no such heading"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_and_modules_exist(document: str) -> None:
    """A path of the checkout that a document names is one, and so is what python -m runs."""
    text = text_of(document)
    for path in FILE.findall(text):
        assert (ROOT / path).is_file(), f"{document}: {path}: no such file"
    for module in MODULE.findall(text):
        path = module.replace(".", "/")
        assert (ROOT / f"{path}.py").is_file(), f"{document}: python -m {module}: no such module"


def test_benchmarks_name_files_of_their_folder() -> None:
    """A result in backticks lies beside the page."""
    folder = ROOT / "infra/benchmarks"
    names = re.findall(r"`([\w-]+\.(?:json|png|py))`", text_of("infra/benchmarks/README.md"))
    assert names
    for name in names:
        assert (folder / name).is_file(), name


@pytest.mark.parametrize("page", PAGES)
def test_page_has_a_table_of_contents(page: str) -> None:
    """Each section of a page is linked at its top, in the order of the page."""
    titles = [title for level, title in headings_of(page) if level == 2 and title != "Contents"]
    assert len(titles) > 2
    top = text_of(page).split(f"\n## {titles[0]}\n")[0]
    linked = [link for link in LINK.findall(top) if link.startswith("#")]
    sections = [link for link in linked if link[1:] in {anchor(title) for title in titles}]
    assert list(dict.fromkeys(sections)) == [f"#{anchor(title)}" for title in titles]


def test_readme_is_short() -> None:
    """The first page is read in a minute."""
    assert len(text_of("README.md").encode()) <= README_BYTES


def test_readme_begins_with_the_two_commands() -> None:
    """What a newcomer needs stands on the first screen."""
    screen = text_of("README.md").splitlines()[:25]
    assert any("make demo" in line for line in screen)
    assert any("make test" in line for line in screen)


def test_commands_page_lists_every_column() -> None:
    """The table of columns says of each what the schema says, in the schema's order."""
    lines = [f"| `{name}` | {kind} | {meaning} |" for name, kind, _, meaning in COLUMNS]
    expected = "\n".join(lines)
    assert expected in section_of("jobs/README.md", "The columns"), f"expected:\n{expected}"


def test_commands_page_shows_every_command() -> None:
    """Every command has a line in the overview and an example."""
    text = text_of("jobs/README.md")
    overview = section_of("jobs/README.md", "Overview")
    for command in COMMANDS:
        name = command.replace("_", "-")
        assert f"| `overpaint {name}" in overview, name
        assert re.search(rf"^    (\$ )?overpaint {name}\b|`overpaint {name}`", text, re.M), name


def test_options_in_the_documents_exist() -> None:
    """An option that a line of ``overpaint`` shows is one that the command takes."""
    for document in DOCUMENTS:
        joined = text_of(document).replace("\\\n", " ")
        for line in re.findall(r"^ +(?:\$ |timeout \d+ )?overpaint (.+)$", joined, re.MULTILINE):
            words = line.split("  #")[0].split()
            command = words[0].replace("-", "_")
            assert command in COMMANDS, f"{document}: overpaint {line}"
            known = options_of(words[0])
            given = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
            assert set(given) <= known, f"{document}: overpaint {line}: {set(given) - known}"


@cache
def options_of(command: str) -> frozenset[str]:
    """The options in a command's own help."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        parse_arguments([command, "--help"])
    return frozenset(re.findall(r"--[a-z][\w-]*", shown.getvalue()))


@pytest.mark.parametrize("document", ["README.md", "jobs/README.md"])
def test_tables_of_exit_codes_are_complete(document: str) -> None:
    """They list the codes of ``jobs/exit_codes.py``, and no other."""
    codes = {value for name, value in vars(exit_codes).items() if name.isupper()}
    rows = table_rows(section_of(document, "Exit codes"))
    assert {int(row[0]) for row in rows if row[0].isdigit()} == codes


def test_architecture_page_draws_the_imports() -> None:
    """The table of rooms allows what the test of imports allows, and the drawing has every room."""
    section = section_of("pipeline/README.md", "The rooms")
    shown = {
        row[0].strip("`"): {name.strip("` ") for name in row[2].split(",")} - {""}
        for row in table_rows(section)
        if row[0].startswith("`")
    }
    allowed = {
        name.removeprefix("pipeline."): imports
        for name, imports in ALLOWED.items()
        if name.startswith("pipeline.")
    }
    assert shown == allowed
    drawing = set(re.findall(r"\w+", section.split("\n|")[0]))
    assert set(allowed) <= drawing


def test_architecture_keeps_decisions_short() -> None:
    """A decision has at most ten lines."""
    titles = [title for _, title in headings_of("pipeline/README.md")]
    for title in titles:
        if title.startswith("Decisions"):
            for decision in section_of("pipeline/README.md", title).split("\n\n"):
                assert len(decision.strip().splitlines()) <= 10, decision


def literals() -> Iterator[str]:
    """Every string of the code, "..." for what an f-string fills in, and names of classes."""
    for folder in ("jobs", "pipeline"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            for node in nodes:
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        str(part.value) if isinstance(part, ast.Constant) else "..."
                        for part in node.values
                    )
                    yield "".join(parts)
                elif isinstance(node, ast.ClassDef):  # a row's error is the name of one
                    yield node.name
                elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                    yield str(node.value)


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    """Each piece of a quoted message, between its "...", is in a string of the code."""
    rows = table_rows(section_of("infra/README.md", "Troubleshooting: what a message means"))[2:]
    assert len(rows) > 10
    code = "\n".join(literals())
    for row in rows:
        message = " ... ".join(re.findall(r"`([^`]+)`", row[0]))
        for piece in message.split("..."):
            assert piece.strip(" :;'=") in code, f"{row[0]}: no message has {piece!r}"


def test_model_card_is_what_export_writes() -> None:
    """The bundled card has the template's text, and the settings of the training."""
    from jobs.train_demo.export import _CARD

    def plain(text: str) -> str:
        return " ".join(text.split())

    card = text_of("pipeline/demo/model/README.md")
    place = 0
    for piece in re.split(r"\$\w+", _CARD.template):
        found = plain(card).find(plain(piece), place)
        assert found >= 0, piece
        place = found + len(plain(piece))
    settings = yaml.safe_load((ROOT / "jobs/train_demo/settings.yaml").read_text(encoding="utf-8"))
    shown = re.search(r"## Settings\n\n```yaml\n(.*?)```", card, re.DOTALL)
    assert shown is not None
    assert yaml.safe_load(shown[1]) == settings
    for name in ("machine", "notes", "limits"):
        assert plain(settings["export"][name]) in plain(card)


@pytest.mark.slow
def test_library_use_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of pipeline/README.md edit shards, and an image in memory."""
    from pipeline.demo.dataset import write_demo_shards
    from pipeline.demo.world import paint, sample_scene

    monkeypatch.chdir(tmp_path)
    write_demo_shards("in", 1, 2)
    Image.fromarray(paint(sample_scene(5, "heldout", 0))).save("before.jpg")
    blocks = python_blocks("pipeline/README.md")
    assert len(blocks) == 3
    for block in blocks:
        names: dict = {}
        exec(block, names)
    assert (tmp_path / "out/00000_stats.json").is_file()
    edit = names["edit"]
    assert edit.status is None or edit.message
    assert edit.mask.dtype == np.float32
