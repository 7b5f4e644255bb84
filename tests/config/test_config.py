"""Loading a configuration: errors name the key, the value and what is allowed."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import ConfigError, apply_override, load_config, parse_config, parse_saved
from pipeline.config.method import Method
from pipeline.plan.fingerprint import differences

MINIMAL: dict[str, Any] = {"input": {"shards": "in/*.tar"}, "output": {"path": "out"}}


def imagic(**settings: object) -> dict[str, Any]:
    """The section method of a run with Imagic."""
    return {"method": {"name": "imagic", "imagic": settings}}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"input": {"shards": "a", "limt": 3}}, ["input.limt", "unknown key", "'limit'"]),
        ({"methods": {}}, ["methods", "unknown key", "'method'"]),
        ({"method": {"mask": {"treshold": 1}}}, ["method.mask.treshold", "'threshold'"]),
        ({"method": {"encode_ratio": 1.5}}, ["method.encode_ratio=1.5", "less than or equal to 1"]),
        ({"method": {"steps": 0}}, ["method.steps=0", "greater than or equal to 1"]),
        ({"method": {"steps": 2**63}}, ["method.steps=9223372036854775808", "less than 2^63"]),
        ({"method": {"guidance_scale": math.inf}}, ["guidance_scale=inf", "finite number"]),
        ({"method": {"composite": {"feather": math.nan}}}, ["composite.feather=nan", "finite"]),
        ({"run": {"grace_s": 1e300}}, ["run.grace_s=1e+300", "less than or equal to 1000000000"]),
        ({"run": {"part_timeout_s": math.inf}}, ["run.part_timeout_s=inf"]),
        ({"model": {"path": "a\0b"}}, ["model.path='a\\x00b'", "without NUL"]),
        ({"method": {"name": "difedit"}}, ["method.name='difedit'", "'diffedit'"]),
        ({"method": {"solver": "euler"}}, ["method.solver='euler'", "'ddim' or 'dpmpp_2m'"]),
        ({"method": {"ddim_eta": 2}}, ["method.ddim_eta=2", "less than or equal to 1"]),
        ({"method": {"ddim_eta": 0.5}}, ["ddim_eta=0.5", "encode: noise", "solver: ddim"]),
        ({"method": {"name": "sdedit", "ddim_eta": 0.5, "solver": "dpmpp_2m"}}, ["solver: ddim"]),
        ({"method": {"repeats": 2}}, ["repeats=2", "encode: noise"]),
        ({"method": {"name": "sdedit", "repeats": 0}}, ["method.repeats=0"]),
        ({"stages": {"mask": {"actors": "two"}}}, ["stages.mask.actors='two'", "integer", "auto"]),
        ({"stages": {"mask": {"actors": 0}}}, ["stages.mask.actors=0", "at least 1, or auto"]),
        ({"plan": {"calibrate": True}}, ["plan.calibrate=True", "at least 1, or auto or never"]),
        ({"stages": {"mask": {"actors": 2, "max_actors": 1}}}, ["max_actors=1", "actors=2"]),
        ({"stages": {"mask": {"threads": 0}}}, ["stages.mask.threads=0", "at least 1, or auto"]),
        (
            {"stages": {"mask": {"threads": 2}, "encode": {"threads": 1}}},
            ["stages.mask.threads=2, stages.encode.threads=1", "threads must be equal"],
        ),
        ({"input": {"shards": []}}, ["input.shards=[]", "glob"]),
        ({"input": {"shards": "a.tar", "image": []}}, ["input.image=[]", "at least 1"]),
        ({"method": {"mask": {"noise_level": []}}}, ["method.mask.noise_level=[]"]),
        ({"output": {"path": "o", "lossless": True}}, ["output.lossless", "webp"]),
        ({"output": {}}, ["output.path", "must be given"]),
        (imagic(interp_eta=1.2), ["method.imagic.interp_eta=1.2", "less than or equal to 1"]),
        (imagic(interp_eta=-0.1), ["method.imagic.interp_eta=-0.1", "greater than or equal to 0"]),
        (imagic(seeds=0), ["method.imagic.seeds=0", "greater than or equal to 1"]),
        (imagic(noise_range=[0.5, 0.5]), ["method.imagic.noise_range=", "the lower one first"]),
        (imagic(rank=0), ["method.imagic.rank=0", "greater than or equal to 1"]),
        (imagic(form="full", rank=4), ["method.imagic", "rank=4", "form: full takes none"]),
        (imagic(model_learning_rate=0), ["model_learning_rate=0", "greater than 0"]),
        (imagic(draws=33), ["method.imagic.draws=33", "stages.encode.micro_batch=32"]),
        (imagic() | {"model": {"dtype": "float16"}}, ["model.dtype='float16'", "bfloat16"]),
        (imagic(form="full") | {"model": {"dtype": "bfloat16"}}, ["model.dtype=", "float32"]),
        (imagic() | {"model": {"compile": "default"}}, ["model.compile", "allowed is off"]),
        ({"method": {"name": "imagic", "decode": {"region": "box"}}}, ["region='box'", "'full'"]),
        ({"method": {"imagic": {}}}, ["method.imagic", "method.name: imagic"]),
        ({"model": {"buckets": "wide"}}, ["model.buckets='wide'", "auto, square, or a list"]),
        ({"model": {"buckets": []}}, ["model.buckets=[]", "[width, height]"]),
        ({"model": {"buckets": [[512, 4]]}}, ["model.buckets=[[512, 4]]", "8 or more"]),
        ({"model": {"buckets": [512, 768]}}, ["model.buckets=[512, 768]", "[width, height]"]),
        ({"model": {"buckets": [[8, 8 * n] for n in range(1, 66)]}}, ["65 sizes; at most 64"]),
        (
            {"model": {"buckets": "auto", "compile": "default"}},
            ["buckets='auto'", "compile: default", "list of sizes"],
        ),
        ({"method": {"name": "imagic", "encode": "ddim"}}, ["encode='ddim'", "'noise'"]),
        ({"method": {"name": "imagic", "repeats": 2}}, ["repeats=2", "imagic allows 1"]),
    ],
)
def test_bad_config_is_explained(section: dict[str, Any], words: list[str]) -> None:
    """Each kind of mistake names its key and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL | section)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("method.name=difedit", "did you mean 'diffedit'?"),
        ("method.name=SDEDIT", "did you mean 'sdedit'?"),
        ("run.layout=pool", "did you mean 'pools'?"),
        ("model.dtype=bf16", "did you mean 'bfloat16'?"),
        ("method.imagic.form=loar", "did you mean 'lora'?"),
        ("stages.decode.actors=autp", "did you mean 'auto'?"),
        ("stages.decode.threads=Auto", "did you mean 'auto'?"),
        ("plan.calibrate=nevre", "did you mean 'never'?"),
        ("filters=[clip_directonal >= 0.2]", "did you mean 'clip_directional'?"),
        ("filters={preset: instruct_pix2pi}", "did you mean 'instruct_pix2pix'?"),
    ],
)
def test_mistyped_choice_suggests_the_nearest(override: str, hint: str) -> None:
    """As a mistyped key does; YAML's reading of off as false is explained."""
    tree = copy.deepcopy(MINIMAL)
    apply_override(tree, override)
    with pytest.raises(ConfigError) as caught:
        parse_config(tree)
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize("value", ["sdxl", 7, True, None, ["diffedit"]])
def test_choice_that_resembles_none_gets_no_suggestion(value: object) -> None:
    """The message still lists what is allowed."""
    with pytest.raises(ConfigError, match=r"'diffedit', 'sdedit' or 'imagic'$"):
        parse_config(MINIMAL | {"method": {"name": value}})


def test_all_mistakes_are_reported_at_once() -> None:
    """Three mistakes give three lines in one message."""
    tree = MINIMAL | {"method": {"steps": 0, "stepz": 1}, "run": {"sed": 1}}
    with pytest.raises(ConfigError) as caught:
        parse_config(tree)
    assert len(str(caught.value).splitlines()) == 3


def test_error_never_prints_storage_options() -> None:
    """An error that concerns the whole configuration does not print the credentials in it."""
    secret = {"storage_options": {"secret": "hunter2"}}
    tree: dict[str, Any] = {"input": {"shards": "a", **secret}}
    tree["output"] = {"path": "o", "lossless": True, **secret}
    with pytest.raises(ConfigError) as caught:
        parse_config(tree)
    assert "hunter2" not in str(caught.value)


def test_overrides_are_yaml_and_globs_stay_text(tmp_path: Path) -> None:
    """Values keep their YAML types; a glob that starts with '*' stays text."""
    path = tmp_path / "c.yaml"
    path.write_text("input: {shards: a.tar}\noutput: {path: out}\n")
    config = load_config(path, ["input.shards=*.tar", "method.steps=7", "run.address=null"])
    assert config.input.shards == "*.tar"
    assert config.method.steps == 7
    assert config.run.address is None


@pytest.mark.parametrize("override", ["run.seed", "=3", "run.seed.deep=3"])
def test_bad_override_is_explained(tmp_path: Path, override: str) -> None:
    """An override without '=', without a key, or below a value is an error."""
    path = tmp_path / "c.yaml"
    path.write_text("input: {shards: a.tar}\noutput: {path: out}\nrun: {seed: 1}\n")
    with pytest.raises(ConfigError, match=r"override|keys of its own"):
        load_config(path, [override])


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "configs/demo.yaml"])
def test_bundled_config_is_found_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any working folder."""
    monkeypatch.chdir(tmp_path)
    assert load_config(name).model.path == "bundled"


@pytest.mark.parametrize("path", ["configs/no_such.yaml", "schema.json", "configs/README.md"])
def test_missing_config_lists_the_bundled_ones(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files in the bundled folder are not configurations."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no configuration at .*; bundled: .*demo\.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    "path",
    sorted(Path(__file__).parents[2].glob("configs/*.yaml")),
    ids=lambda path: path.name,
)
def test_bundled_configs_are_valid(path: Path) -> None:
    """Every bundled run configuration loads."""
    load_config(path)


def test_sdedit_noises_and_edits_everywhere() -> None:
    """SDEdit has its own defaults of encode and mask, and its ratio is strength."""
    method = Method.model_validate({"name": "sdedit", "strength": 0.4})
    assert (method.encode, method.mask.source, method.ratio) == ("noise", "full", 0.4)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "diffedit_no_mask_sd15_512",
            "mask.source: the output has 'infer', this run asks for 'full'",
        ),
        (
            "diffedit_no_encoding_sd15_512",
            "encode: the output has 'ddim', this run asks for 'noise'",
        ),
    ],
)
def test_an_ablation_differs_from_diffedit_in_one_setting(name: str, change: str) -> None:
    """Its method has DiffEdit's settings, except for the step that it leaves out."""
    whole, ablation = (load_config(each).method for each in ("diffedit_sd15_512", name))
    assert differences(whole.model_dump(), ablation.model_dump()) == [change]


def test_sdedit_config_has_the_papers_settings() -> None:
    """Noise, no inversion and no inferred mask; K = 1 and a strength in the useful range."""
    method = load_config("sdedit_sd15_512").method
    assert (method.name, method.encode, method.mask.source) == ("sdedit", "noise", "full")
    assert (method.repeats, method.ddim_eta) == (1, 0.0)
    assert 0.3 <= method.strength <= 0.6


@pytest.mark.parametrize(("form", "steps", "seeds"), [("lora", 200, 1), ("full", 1500, 8)])
def test_imagic_has_its_forms_own_defaults(form: str, steps: int, seeds: int) -> None:
    """The full form has the paper's values, and a dumped method can be read again."""
    method = Method.model_validate({"name": "imagic", "imagic": {"form": form}})
    assert method.imagic is not None
    assert (method.imagic.model_steps, method.imagic.seeds) == (steps, seeds)
    assert (method.encode, method.mask.source, method.ratio) == ("noise", "full", 1.0)
    assert Method.model_validate(method.model_dump()) == method


@pytest.mark.parametrize(
    ("sections", "threads"),
    [
        ({}, 1),  # a quarter of a CPU each
        ({"stages": {"mask": {"cpus": 0.25}, "encode": {"cpus": 2}, "decode": {"cpus": 4}}}, 1),
        ({"stages": {"mask": {"cpus": 3.9}, "encode": {"cpus": 3}, "decode": {"cpus": 4}}}, 3),
        ({"stages": {"decode": {"cpus": 4}}, "run": {"layout": "fused"}}, 4),
        (
            {"stages": {"decode": {"cpus": 4}}, "run": {"layout": "auto"}},
            1,
        ),  # auto may choose pools
        ({"stages": {"encode": {"threads": 2}, "decode": {"cpus": 4}}}, 2),
    ],
)
def test_threads_are_the_whole_cores_of_the_smallest_pool(
    sections: dict[str, Any], threads: int
) -> None:
    """All stages have one number, so that layouts write the same bytes. A configured one wins."""
    config = parse_config(MINIMAL | sections)
    assert config.threads == threads
    stages = config.with_threads(config.threads).stages
    assert {stages.mask.threads, stages.encode.threads, stages.decode.threads} == {threads}


def test_threads_do_not_depend_on_the_number_of_actors() -> None:
    """So the bytes do not either."""
    sizes = [{"stages": {"decode": {"actors": size}}} for size in (1, 8, "auto")]
    assert {parse_config(MINIMAL | tree).threads for tree in sizes} == {1}


@pytest.mark.parametrize(
    ("output", "model", "resize"),
    [
        ({}, {}, "crop"),
        ({"resolution": "model"}, {}, "crop"),
        ({"resolution": "source"}, {}, "pad"),
        ({"resolution": "source"}, {"size": 64}, "pad"),
        ({"resolution": "source"}, {"resize": "crop"}, "crop"),
        ({"resolution": "source"}, {"resize": "stretch"}, "stretch"),
        ({}, {"buckets": "auto"}, "crop"),
        ({"resolution": "source"}, {"buckets": "auto"}, "pad"),
        ({}, {"buckets": [[64, 32]]}, "pad"),
        ({}, {"buckets": [[64, 32]], "resize": "crop"}, "crop"),
    ],
)
def test_an_original_that_keeps_its_size_is_padded_by_default(
    output: dict, model: dict, resize: str
) -> None:
    """What is given counts; the value is in the settings like a given one."""
    tree: dict = {"input": {"shards": "a"}, "output": {"path": "b", **output}, "model": model}
    before = {name: dict(section) for name, section in tree.items()}
    config = parse_config(tree)
    assert config.model.resize == resize
    assert tree == before
    assert parse_config(config.model_dump(mode="json")) == config


def test_equal_sizes_and_their_order_do_not_count() -> None:
    """A list is a set, so another spelling of it is the same run."""
    listed = {**MINIMAL, "model": {"buckets": [[64, 32], [32, 64], [64, 32]]}}
    assert parse_config(listed).model.buckets == [(32, 64), (64, 32)]


def test_a_saved_config_without_buckets_is_square() -> None:
    """An output from before there were buckets is read as it was computed."""
    tree = parse_config(MINIMAL).model_dump(mode="json")
    del tree["model"]["buckets"]
    assert parse_saved(tree).model.buckets == "square"


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("configs/*.yaml")), ids=lambda path: path.name
)
def test_no_bundled_config_takes_the_default_resize_away(path: Path) -> None:
    """A given crop would also count where the original keeps its size."""
    overrides = ["input.shards=a", "output.path=b", "output.resolution=source"]
    assert load_config(path, overrides).model.resize == "pad"
