"""The `rpe` command. Each command reads its arguments, calls one function of the package and prints; errors
of the user become one line.

Heavy modules are imported inside the commands, so that `rpe --help` is quick.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import rpe_ops

from .config import Config, DecodeConfig
from .errors import UserError
from .experiments.settings import EXPERIMENTS

app = App(
    name="rpe",
    version=rpe_ops.__version__,
    help="Recurrent pixel embedding: train, evaluate and use instance segmentation models.",
)

Settings = Annotated[Config, Parameter(name="*", consume_multiple=True)]
_DEFAULTS = Config()
Rules = Annotated[DecodeConfig, Parameter(name="decode", consume_multiple=True, show_default=False)]
_DEFAULT_RULES = DecodeConfig()
_PLAIN_WIDTH = 140
"""Columns of tables where the output is not a terminal."""


@app.command
def demo(*, out: Path = Path("runs/demo"), steps: int = 1500) -> None:
    """Train on generated images, group, evaluate with and without mean shift, write pictures and a report.

    Parameters
    ----------
    out: folder of the results; an earlier demo there is replaced.
    steps: length of the training.
    """
    from .demo import run_demo

    run_demo(out, steps=steps, console=_console())


@app.command
def train(
    config_file: Path,
    /,
    *,
    settings: Settings = _DEFAULTS,
    resume: bool = False,
) -> None:
    """Train a model, then evaluate it on the test split.

    Parameters
    ----------
    config_file: TOML or YAML file; options on the command line override it.
    resume: go on from the last checkpoint in the output folder.
    """
    from .run import run_training

    run_training(settings, config_file, resume=resume, console=_console())


@app.command
def evaluate(
    checkpoint: Path,
    /,
    *,
    data: str,
    split: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    decode: Rules = _DEFAULT_RULES,
) -> None:
    """Evaluate a checkpoint on a data set by its task's metrics: a table, evaluation.html and evaluation.json. Decoding
    rules on the command line take the place of the checkpoint's, which is not changed.

    Parameters
    ----------
    checkpoint: model.pt or checkpoint.pt of a run.
    data: FORMAT:ROOT.
    split: part of the data set; all of it by default.
    out: folder of the results; by default one for this data, split and rules in `evaluations` beside the checkpoint.
    overwrite: replace an evaluation of other data, weights or rules in `out`.
    """
    from .predict import load
    from .run import run_evaluation

    predictor = load(checkpoint, decode=asdict(decode))
    run_evaluation(predictor, checkpoint, data, split, out, overwrite=overwrite, console=_console())


@app.command
def predict(
    checkpoint: Path,
    /,
    *images: Path,
    out: Path,
    batch_size: int = 1,
    device: str = "auto",
    overwrite: bool = False,
    decode: Rules = _DEFAULT_RULES,
) -> None:
    """Write what the checkpoint's task predicts for each image: label map, overlay, embedding as RGB and COCO RLE JSON;
    class map or boundary probabilities where it has them. Images that are done are not done again, unless they have
    changed or files of their results are missing. One that fails stops no other, is named at the end and makes the
    exit status 1. Decoding rules on the command line take the place of the checkpoint's.

    Parameters
    ----------
    checkpoint: model.pt or checkpoint.pt of a run.
    images: image files, and folders of them.
    out: folder of the results.
    batch_size: images of one size that pass through the network together.
    device: cpu, cuda, ...; by default a GPU where there is one.
    overwrite: replace results that another model, other rules or another version left in `out`.
    """
    from .run import run_prediction

    failed = run_prediction(
        checkpoint,
        images,
        out,
        batch_size=batch_size,
        device=device,
        decode=asdict(decode),
        overwrite=overwrite,
        console=_console(),
    )
    sys.exit(min(1, failed))


@app.command(name="check-data")
def check_data(data: str, /, *, split: str | None = None) -> None:
    """Read a whole data set and say what is wrong and where.

    Parameters
    ----------
    data: FORMAT:ROOT.
    split: part of the data set; all of it by default.
    """
    from .check_data import run

    sys.exit(run(data, split))


@app.command
def info() -> None:
    """Versions, rpe_ops backends, backbones and data formats."""
    from .run import print_info

    print_info(_console())


@app.command
def export(checkpoint: Path, file: Path, /) -> None:
    """Write the network alone as a torch.export program (.pt2): images in, feature maps out, any batch and size.

    Parameters
    ----------
    checkpoint: model.pt or checkpoint.pt of a run.
    file: what is written.
    """
    from .predict import load
    from .program import write_network

    write_network(load(checkpoint, device="cpu").model, file)


experiment = App(name="experiment", help="Small experiments, each with a figure and a JSON.")
app.command(experiment)


@experiment.default
def list_experiments(
    *name: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], list: bool = True
) -> None:
    """Name the experiments and what they ask.

    Parameters
    ----------
    name: one that is no experiment: those that are would not come here.
    list: what happens without a name too.
    """
    if name:
        near = difflib.get_close_matches(name[0], EXPERIMENTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"rpe experiment: {name[0]!r} is not one of {', '.join(EXPERIMENTS)}{hint}")
    from .experiments.record import question

    table = Table(box=None, show_header=False)
    for known, options in EXPERIMENTS.items():
        table.add_row(known, question(options))
    _console().print(table)


def _experiment_command(name: str, options: type) -> Callable[..., None]:
    """The command of one experiment, with its options and the folder of its files."""
    defaults = options()

    def command(*, options: Any = defaults, out: Path = Path("runs/experiments")) -> None:
        from .experiments.record import run_experiment

        run_experiment(name, options, out, _console())

    command.__doc__ = options.__doc__
    command.__annotations__ = {"options": Annotated[options, Parameter(name="*")], "out": Path}
    return command


for _name, _options in EXPERIMENTS.items():
    experiment.command(_experiment_command(_name, _options), name=_name)


def _console() -> Console:
    """Standard output, wide where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def _file_below_options(app: App, commands: tuple[str, ...], arguments: cyclopts.ArgumentCollection) -> None:
    """Values of the config file for every setting that the command line leaves open."""
    from .settings import read_mapping

    tokens = next(argument.tokens for argument in arguments if "CONFIG_FILE" in argument.names)
    if not tokens:
        return
    path = tokens[0].value
    values = cyclopts.config.Dict(_clean(read_mapping(path)), source=path, use_commands_as_keys=False)
    values(app, commands, arguments)


def _checkpoint_below_options(
    app: App, commands: tuple[str, ...], arguments: cyclopts.ArgumentCollection
) -> None:
    """Values of the checkpoint for every decoding rule that the command line leaves open."""
    from .checkpoint import read_config
    from .settings import to_mapping

    tokens = next(argument.tokens for argument in arguments if "CHECKPOINT" in argument.names)
    if not tokens:
        return
    path = tokens[0].value
    rules = {"decode": _clean(to_mapping(read_config(path).decode))}
    cyclopts.config.Dict(rules, source=path, use_commands_as_keys=False)(app, commands, arguments)


def _clean(value: Any) -> Any:
    """Without the keys whose value is none: the default stands for them."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items() if item is not None}
    return value


app["train"].config = (_file_below_options,)
for _name in ("evaluate", "predict"):
    app[_name].config = (_checkpoint_below_options,)


def main() -> None:
    """Run the command; a user's mistake is printed without a traceback and exits with 1."""
    console = Console(stderr=True)
    try:
        app(sys.argv[1:])
    except (UserError, ValueError, OSError) as error:
        words = _of_the_file_system(error) if isinstance(error, OSError) else str(error)
        console.print(f"[bold red]error:[/] {escape(words)}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _of_the_file_system(error: OSError) -> str:
    """What the system said, the path first, and what to do."""
    if error.filename is None or error.strerror is None:
        return str(error)
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        remedy = "a folder is wanted and a file has its name: choose another folder"
    elif isinstance(error, PermissionError):
        remedy = "choose another path, or change its permissions"
    else:
        remedy = "check the path and the space on its disk"
    return f"{error.filename}: {error.strerror}; {remedy}"
