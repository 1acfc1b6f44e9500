"""Config files: values, overrides, and errors that name file, key and remedy."""

import dataclasses
from pathlib import Path

import pytest

from rpe.config import Config
from rpe.errors import UserError
from rpe.limits import LIMITS, check_limits
from rpe.settings import flatten, from_mapping, load_config, to_mapping


def write(folder: Path, text: str, name: str = "a.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_toml_and_yaml_give_the_same_config(tmp_path: Path) -> None:
    toml = write(tmp_path, "seed = 3\n[model]\nchannels = [8, 16]\n[training]\nlearning_rate = 1\n")
    yaml = write(tmp_path, "seed: 3\nmodel: {channels: [8, 16]}\ntraining: {learning_rate: 1}\n", "a.yaml")
    config = load_config(toml)
    assert config == load_config(yaml)
    assert config.model.channels == (8, 16) and config.training.learning_rate == 1.0 and config.seed == 3


def test_overrides_win(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, "[training]\nsteps = 5\n"), {"training.steps": 7, "grouping.kappa": 12}
    )
    assert config.training.steps == 7 and config.grouping.kappa == 12.0


def test_a_config_survives_its_plain_mapping() -> None:
    config = Config(seed=4)
    assert from_mapping(Config, to_mapping(config), source="x") == config
    assert flatten(to_mapping(config))["model.channels"] == [32, 64, 96, 128]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nstep = 5\n", ["a.toml", "'training.step'", "did you mean 'training.steps'"]),
        ("learning_rate = 1.0\n", ["'learning_rate'", "did you mean 'training.learning_rate'"]),
        ("[modle]\ndim = 3\n", ["'modle'", "did you mean 'model'"]),
        ("qqqq = 3\n", ["'qqqq'", "expected one of"]),
        ("[training]\nsteps = 'many'\n", ["training.steps must be of type int, got 'many'"]),
        ("[training]\nsteps = true\n", ["training.steps must be of type int, got True"]),
        ("[model]\nnorm = 'batchs'\n", ["model.norm must be one of", "did you mean 'batch'"]),
        ("[data]\nscale = [1.0]\n", ["data.scale must have 2 entries"]),
        ("[data]\nscale = 2.0\n", ["data.scale must be a list"]),
        ("training = 3\n", ["training must be a table"]),
        ("[training\n", ["cannot be read as TOML"]),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


def test_missing_and_strange_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"\.toml, \.yaml or \.yml"):
        load_config(write(tmp_path, "", "a.ini"))


def test_shipped_configs_are_valid(repository: Path) -> None:
    files = sorted((repository / "configs").glob("*.toml"))
    assert files
    for file in files:
        load_config(file)
        assert str(repository.parent) not in file.read_text()


@pytest.mark.parametrize(
    "setting, value, bound",
    [
        ("training.accumulate", 0, "at least 1"),
        ("training.checkpoint_every", 0, "at least 1"),
        ("training.warmup", 2.0, "between 0 and 1"),
        ("decode.threshold", 2.0, "between 0 and 1"),
        ("decode.foreground_threshold", float("nan"), "between 0 and 1"),
        ("data.crop", 0, "at least 1"),
        ("data.rotation", 181.0, "between 0 and 180"),
        ("data.brightness", 1.0, "between 0 and 0.99"),
        ("decode.thresholds", (0.5, 1.5), "between 0 and 1"),
        ("decode.kappas", (-1.0,), "above 0"),
        ("model.rotation_periods", (8.0, float("nan")), "above 0"),
        ("data.scale", (2.0, 1.0), "a range"),
        ("data.scale", (0.0, 1.0), "a range"),
        ("objective.margin", -0.5, "between 0 and 1"),
        ("seed", -1, "between 0"),
    ],
)
def test_a_setting_outside_its_range_is_named_before_anything_runs(setting, value, bound):
    group, _, name = setting.rpartition(".")
    config = Config()
    if group:
        config = dataclasses.replace(
            config, **{group: dataclasses.replace(getattr(config, group), **{name: value})}
        )
    else:
        config = dataclasses.replace(config, **{name: value})
    with pytest.raises(UserError, match=f"{setting} must be {bound}"):
        check_limits(config)


def test_the_defaults_are_inside_their_ranges_and_a_backend_must_run_here():
    check_limits(Config())
    headless = dataclasses.replace(Config().model, foreground=False)
    with pytest.raises(UserError, match="decode.background is 'head' but model.foreground is false"):
        check_limits(dataclasses.replace(Config(), model=headless))
    assert set(LIMITS) <= set(flatten(to_mapping(Config())))
    with pytest.raises(UserError, match="backend must be 'auto' or one that runs here, got 'abacus'"):
        check_limits(dataclasses.replace(Config(), backend="abacus"))
