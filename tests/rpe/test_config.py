"""Config files: values, overrides, and errors that name file, key and remedy."""

from pathlib import Path

import pytest

from rpe.config import Config
from rpe.errors import UserError
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
