"""From a tar's bytes to parts: every sample is edited, or is a row that says why not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.input import Input
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.steps.cut_parts import plan_parts
from pipeline.steps.read import count_edits, read_parts, read_shard
from pipeline.steps.texts import substituted
from pipeline.storage.formats import BadShardError
from pipeline.storage.shards import expand_shards
from tests.packed import from_bytes, to_bytes
from tests.samples import encode, pixels, raw_sample, shard_bytes, write_shard

IMAGE = encode(pixels())


def read_one(config: dict[str, Any] | None = None, **members: Any) -> Sample:
    """The only image of a shard with one sample of the key "k"."""
    one = {"__key__": "k"} | {name.replace("__", "."): value for name, value in members.items()}
    contents = read_shard(shard_bytes([one]), Input(shards="x", **(config or {})))
    assert contents.problem is None
    assert len(contents.samples) == 1
    return contents.samples[0]


def reason(sample: Sample) -> tuple[int, str | None, str | None]:
    """Index, kind of error and message of an image's only, failed edit."""
    edit = sample.edits[0]
    assert len(sample.edits) == 1
    assert (edit.status, edit.stage) == (Status.FAILED, "read")
    return edit.index, edit.error, edit.message


MAY_LACK = "after this sample: it may lack a file"


def texts(sample: Sample) -> list[str | None]:
    return [edit.edit_text for edit in sample.edits]


def test_a_sample_becomes_an_image_with_its_edits() -> None:
    """Every member finds its place; the rest passes through."""
    sample = read_one(
        png=IMAGE,
        txt=" a dog\n",
        edit__txt="a cat\r\na fox\n\n",
        mask__png=b"mask",
        cls="7",
        json={"seed": 3, "encode_ratio": 0.5, "other": [1]},
    )
    assert (sample.key, sample.suffix, sample.encoded) == ("k", "png", IMAGE)
    assert (sample.caption, texts(sample)) == ("a dog", ["a cat", "a fox"])
    assert [edit.index for edit in sample.edits] == [0, 1]
    assert all(edit.pending for edit in sample.edits)
    assert (sample.encoded_mask, sample.extras) == (b"mask", {"cls": b"7"})
    assert sample.settings == {"seed": 3, "encode_ratio": 0.5}
    assert sample.metadata["other"] == [1]
    assert len(sample.source_sha256 or "") == 64


def test_texts_may_stand_in_the_json() -> None:
    """caption, edits (a list) and edit (one text) are fields by default."""
    assert texts(read_one(png=IMAGE, json={"caption": "a", "edits": ["b", "c"]})) == ["b", "c"]
    sample = read_one(png=IMAGE, json={"caption": "a", "edit": "b"})
    assert (sample.caption, texts(sample)) == ("a", ["b"])
    assert texts(read_one({"edits": ["json:want"]}, png=IMAGE, txt="a", json={"want": "b"})) == [
        "b"
    ]


def test_substitutions_make_edit_texts() -> None:
    """Whole words, any case, one edit for each replacement, in the table's order."""
    table = {"dog": ["cat", "red fox"], "grass": ["snow"]}
    assert substituted("Dog and hotdog on grass, a dog.", table) == [
        "Cat and hotdog on grass, a cat.",
        "Red fox and hotdog on grass, a red fox.",
        "Dog and hotdog on snow, a dog.",
    ]
    config = {"substitutions": table}
    assert len(read_one(config, png=IMAGE, txt="a dog").edits) == 2
    assert texts(read_one(config, png=IMAGE, txt="a dog", edit__txt="own")) == ["own"]


def test_a_sample_without_a_substituted_word_is_skipped() -> None:
    """Nothing is wrong with it, so it does not count as failed; without any table it fails."""
    (edit,) = read_one({"substitutions": {"dog": ["cat"]}}, png=IMAGE, txt="a bird").edits
    assert (edit.index, edit.status, edit.error) == (-1, Status.SKIPPED, "NoSubstitution")
    assert "no word of input.substitutions" in str(edit.message)
    assert reason(read_one(png=IMAGE, txt="a bird"))[1] == "NoEditText"


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("members", "kind", "words"),
    [
        ({"txt": "a", "edit__txt": "b"}, "NoImage", "no image: none of .jpg .jpeg .png"),
        ({"png": IMAGE, "edit__txt": "b"}, "NoCaption", "txt, json:caption"),
        ({"png": IMAGE, "txt": " \n", "edit__txt": "b"}, "NoCaption", "no caption"),
        ({"png": IMAGE, "txt": "a"}, "NoEditText", "edit.txt, json:edits, json:edit"),
        ({"png": IMAGE, "txt": "a", "edit__txt": "\n \n"}, "NoEditText", "edit.txt is empty"),
        ({"png": IMAGE, "txt": "a", "json": {"edits": []}}, "NoEditText", "json:edits is empty"),
        ({"png": IMAGE, "txt": "a", "json": {"edits": [1]}}, "BadEditText", "json:edits"),
        ({"png": IMAGE, "txt": b"\xff", "edit__txt": "b"}, "BadText", ".txt is not UTF-8 at"),
        ({"png": IMAGE, "txt": "a".encode("utf-16-le"), "edit__txt": "b"}, "BadText", "UTF-16"),
        ({"png": IMAGE, "txt": "a", "edit__txt": b"b\0\0"}, "BadText", ".edit.txt has a zero"),
        (
            {"png": IMAGE, "json": {"caption": 3}},
            "BadCaption",
            "json:caption: expected a string, got a number",
        ),
        ({"png": IMAGE, "json": "{"}, "BadJson", "cannot be read"),
        ({"png": IMAGE, "json": "[1]"}, "NoCaption", "txt, json:caption"),
        ({"png": IMAGE, "json": "[" * 99999}, "BadJson", "nested deeper than 100"),
        ({"png": IMAGE, "json": nested(101)}, "BadJson", "nested deeper than 100"),
        ({"png": IMAGE, "json": r'{"caption": "\ud800"}'}, "BadText", "lone surrogate"),
    ],
)
def test_a_sample_that_cannot_be_edited_is_one_row(
    members: dict[str, Any], kind: str, words: str
) -> None:
    """Edit index -1, failed at reading, with the kind of error and a sentence."""
    index, found, message = reason(read_one(**members))
    assert (index, found) == (-1, kind)
    assert words in str(message)


def test_what_is_read_of_a_json_can_travel_and_be_written() -> None:
    """As deep as is allowed, of lists and objects, however full the stack is by then."""
    deepest = json.loads(nested(100))
    sample = read_one(png=IMAGE, txt="a", edit__txt="b", json=deepest)
    assert sample.metadata == deepest
    part = Part("s", 0, 1, [sample])

    def deeper(calls: int) -> Part:
        return deeper(calls - 1) if calls else from_bytes(to_bytes(part))

    assert deeper(500).samples[0].metadata == deepest
    lists = {"a": json.loads("[" * 100 + "]" * 100)}  # 101 with the object
    assert reason(read_one(png=IMAGE, txt="a", edit__txt="b", json=lists))[1] == "BadJson"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "is a list, not an object"),
        ("3", "is a number, not an object"),
        ("null", "is null, not an object"),
        (" \n", "is empty"),
        ('{"a": NaN, "b": -Infinity, "seed": 7}', "NaN and numbers that are too large"),
        ('{"a": 1e999, "seed": 7}', "NaN and numbers that are too large"),
        ('{"a": ' + "9" * 5000 + ', "seed": 7}', "NaN and numbers that are too large"),
        ('{"a": null, "seed": 3, "seed": 7}', '"seed" appears more than once: the last was read'),
        ('{"b": [{"c": 1, "c": 1}], "seed": 7}', '"c" appears more than once'),
    ],
)
def test_a_json_that_holds_no_settings_is_left_unread(text: str, words: str) -> None:
    """The edit does not need it; a note says so. NaN, which many writers write, is null."""
    sample = read_one(png=IMAGE, txt="a", edit__txt="b", json=text)
    (note,) = sample.edits[0].notes
    assert sample.pending
    assert words in note
    assert sample.settings == ({"seed": 7} if "seed" in text else {})
    assert sample.metadata.get("a") is None


def test_settings_that_are_null_are_not_set_and_whole_floats_are_seeds() -> None:
    """As for caption and edits; pandas writes 42.0 in a column with gaps."""
    own = {"seed": 42.0, "encode_ratio": None, "strength": None, "guidance_scale": 2}
    sample = read_one(png=IMAGE, txt="a", edit__txt="b", json=own)
    assert sample.settings == {"seed": 42, "guidance_scale": 2}
    assert isinstance(sample.settings["seed"], int)


def test_only_files_of_named_suffixes_are_passed_through() -> None:
    """Loaders decode by suffix, and run what is in a pickle: a note names what stays behind."""
    others: dict[str, Any] = {"depth__npy": b"1", "boxes__json": b"{}", "cls": b"7"}
    pickles: dict[str, Any] = {
        "pyd": b"x",
        "a__pkl": b"x",
        "PICKLE": b"x",
        "pth": b"x",
        "flow__exr": b"x",
    }
    sample = read_one(png=IMAGE, txt="a", edit__txt="b", **others, **pickles)
    assert sample.extras == {"depth.npy": b"1", "boxes.json": b"{}", "cls": b"7"}
    note = "not passed through, by input.pass_through: .pyd, .a.pkl, .pickle, .pth, .flow.exr"
    assert sample.edits[0].notes == [note]
    sample = read_one({"pass_through": ["exr"]}, png=IMAGE, txt="a", edit__txt="b", **pickles)
    assert sample.extras == {"flow.exr": b"x"}


def test_a_mask_of_another_format_than_the_configurations_is_noted() -> None:
    """Its edit has an inferred mask, which may not be what was meant."""
    sample = read_one(png=IMAGE, txt="a", edit__txt="b", mask__jpg=IMAGE, box__png=IMAGE)
    assert sample.encoded_mask is None
    assert sample.edits[0].notes == ["no mask was read from .mask.jpg: input.mask is mask.png"]
    named = read_one({"mask": "Mask.JPG"}, png=IMAGE, txt="a", edit__txt="b", mask__jpg=IMAGE)
    assert (named.encoded_mask, named.edits[0].notes) == (IMAGE, [])
    both: dict[str, Any] = {"mask__png": IMAGE, "mask__jpg": IMAGE}
    assert read_one(png=IMAGE, txt="a", edit__txt="b", **both).edits[0].notes == []


@pytest.mark.parametrize("suffix", ["pkl", "PYD", "weights.pth"])
def test_a_pickle_is_never_passed_through(suffix: str) -> None:
    """Whatever the configuration says."""
    with pytest.raises(ValueError, match="a loader would run the code in such a file"):
        Input(shards="x", pass_through=["txt", suffix])


def test_an_empty_edit_text_fails_alone() -> None:
    """A blank line between texts, or an empty text in a list, keeps its index; the others go on."""
    for members in (
        {"edit__txt": "b\n\nc"},
        {"json": {"edits": ["b", " ", "c"]}},
    ):
        sample = read_one(png=IMAGE, txt="a", **members)
        assert texts(sample) == ["b", "", "c"]
        assert [edit.pending for edit in sample.edits] == [True, False, True]
        assert sample.edits[1].error == "EmptyText"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_may_have_the_line_ends_of_any_system(end: str) -> None:
    """And the mark that some editors of Windows put in front."""
    text = b"\xef\xbb\xbf" + f"b{end}c{end}".encode()
    assert texts(read_one(png=IMAGE, txt="a", edit__txt=text)) == ["b", "c"]


def test_keys_with_dots_name_the_remedy_and_it_works() -> None:
    """At the first dot the image is lost; with key_split: suffix it is found."""
    members = {"a.b.c.jpg": IMAGE, "a.b.c.txt": "x", "a.b.c.edit.txt": "y", "a.b.c.cls": "1"}
    shard = shard_bytes([members])
    samples = read_shard(shard, Input(shards="x")).samples
    index, kind, message = reason(samples[0])
    assert (len(samples), samples[0].key, index, kind) == (1, "a", -1, "NoImage")
    assert "input.key_split: suffix" in str(message)
    sample = read_shard(shard, Input(shards="x", key_split="suffix")).samples[0]
    assert (sample.key, sample.suffix, texts(sample)) == ("a.b.c", "jpg", ["y"])
    assert sample.extras == {"cls": b"1"}


@pytest.mark.parametrize("key", ["with space", "ünïcödé/猫", "../../etc/passwd", "/abs", "a\\b"])
def test_odd_keys_are_read_as_they_are(key: str) -> None:
    """A key is data; only names of outputs are encoded."""
    samples = read_shard(shard_bytes([raw_sample(key)]), Input(shards="x")).samples
    assert [(sample.key, len(sample.pending)) for sample in samples] == [(key, 1)]


def test_suffixes_count_in_any_case() -> None:
    """As webdataset has it, .JPG is .jpg."""
    shard = shard_bytes([{"k.PNG": IMAGE, "k.TXT": "a", "k.edit.txt": "b"}])
    assert read_shard(shard, Input(shards="x")).samples[0].pending


def test_duplicates_are_a_failed_row() -> None:
    """A key that comes back, or a member that is there twice: what belongs together is unknown."""
    a, b = raw_sample("a"), raw_sample("b")
    samples = read_shard(shard_bytes([a, b, a]), Input(shards="x")).samples
    assert [sample.key for sample in samples] == ["a", "b"]
    index, kind, message = reason(samples[0])
    assert (index, kind) == (-1, "DuplicateKey")
    assert "appears again" in str(message)
    assert samples[1].pending
    twice = [a, {"a.txt": "again"}]
    assert "more than once" in str(
        reason(read_shard(shard_bytes(twice), Input(shards="x")).samples[0])[2]
    )


def samples_with(*counts: int) -> list[Sample]:
    return [
        Sample(str(number), encoded=b"", edits=[Edit(index) for index in range(count)])
        for number, count in enumerate(counts)
    ]


def layout(parts: list[list[Sample]]) -> list[list[tuple[str, int]]]:
    return [[(sample.key, len(sample.edits)) for sample in part] for part in parts]


def test_a_part_closes_before_an_image_that_would_not_fit() -> None:
    """Only an image with more edits than a part holds is split."""
    assert layout(plan_parts(samples_with(2, 1, 2), 4)) == [[("0", 2), ("1", 1)], [("2", 2)]]
    assert layout(plan_parts(samples_with(1, 5, 1), 2)) == [
        [("0", 1)],
        [("1", 2)],
        [("1", 2)],
        [("1", 1), ("2", 1)],
    ]
    assert layout(plan_parts([], 4)) == [[]]
    pieces = plan_parts(samples_with(5), 2)
    indices = [[edit.index for edit in part[0].edits] for part in pieces]
    assert indices == [[0, 1], [2, 3], [4]]


def test_parts_are_the_same_whatever_is_skipped(tmp_path: Path) -> None:
    """Skipping what is staged changes neither the others nor their number."""
    samples = [raw_sample(f"{number}", seed=number) for number in range(5)]
    write_shard(tmp_path / "in/0.tar", samples)
    shard = expand_shards(str(tmp_path / "in/0.tar"))[0]
    config = Input(shards="x")
    every = list(read_parts(shard, config, 2))
    assert [(part.shard, part.index, part.num_parts) for part in every] == [
        ("0", 0, 3),
        ("0", 1, 3),
        ("0", 2, 3),
    ]
    generation = every[0].generation
    assert generation == hashlib.sha256((tmp_path / "in/0.tar").read_bytes()).hexdigest()[:12]
    skip = {(generation, 3, 0), (generation, 3, 2), (generation, 4, 1), ("0" * 12, 3, 1)}
    rest = list(read_parts(shard, config, 2, skip=skip))
    assert [to_bytes(part) for part in rest] == [to_bytes(every[1])]


def test_a_limit_takes_edits_from_the_start(tmp_path: Path) -> None:
    """input.limit counts edits, and may cut an image's."""
    write_shard(tmp_path / "0.tar", [raw_sample("a", ["1", "2"]), raw_sample("b", ["3", "4"])])
    shard = expand_shards(str(tmp_path / "0.tar"))[0]
    config = Input(shards="x")
    assert count_edits(shard, config) == 4
    (part,) = read_parts(shard, config, 64, max_edits=3)
    assert [edit.edit_text for edit in part.edits] == ["1", "2", "3"]


def test_an_empty_shard_is_one_empty_part(tmp_path: Path) -> None:
    """So that it is published empty, and not forgotten."""
    write_shard(tmp_path / "0.tar", [])
    (part,) = read_parts(expand_shards(str(tmp_path / "0.tar"))[0], Input(shards="x"), 4)
    assert (part.index, part.num_parts, part.samples, part.problem) == (0, 1, [], None)


def test_a_truncated_shard_is_published_or_refused(tmp_path: Path) -> None:
    """on_bad_shard says which; what can be read is kept with the reason."""
    whole = shard_bytes([raw_sample("a"), raw_sample("b", seed=1)])
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 1024 * 512])
    shard = expand_shards(str(tmp_path / "0.tar"))[0]
    (part,) = read_parts(shard, Input(shards="x"), 4)
    assert str(part.problem).startswith("truncated: ")
    assert part.samples[0].pending
    with pytest.raises(BadShardError, match="truncated: "):
        list(read_parts(shard, Input(shards="x", on_bad_shard="fail"), 4))


def test_every_cut_of_a_shard_ends_in_rows_or_a_reason() -> None:
    """Cut at every 512 bytes: no error is raised, and no sample is changed in silence."""
    whole = shard_bytes([raw_sample(f"{number}", seed=number) for number in range(3)])
    complete = {sample.key: sample for sample in read_shard(whole, Input(shards="x")).samples}
    archive_end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for cut in range(0, archive_end + 1, 512):
        contents = read_shard(whole[:cut], Input(shards="x"))
        assert contents.problem is not None
        for sample in contents.samples:
            for edit in sample.pending:
                assert edit.notes in ([], [f"the shard is cut at byte {cut}, {MAY_LACK}"])
                edit.notes = []
            assert sample == complete[sample.key] or not sample.pending
