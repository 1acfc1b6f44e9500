"""The training loop: accelerate for devices, precision and processes; views, objective and checkpoints from
their own files.

Every number that step s draws is a function of (seed, s), of (seed, view) or of a state in the checkpoint: a run that
was killed and resumed ends with the same weights, bit for bit, and a step means the same however its views are divided
among processes and accumulated batches. Evaluation when training ends is `evaluate.py`; the command line is `cli.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.utils.data
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import Tensor, nn

from . import tasks
from .build import build_model, build_objective
from .checkpoint import load_weights, random_state, read_checkpoint, save_checkpoint, set_random_state
from .classes import Classes
from .config import Config
from .data import Dataset, open_dataset, sample_generator
from .errors import UserError
from .objective import Losses
from .position import Origin
from .progress import TrainingProgress
from .schedule import rate_factor
from .settings import flatten, to_mapping
from .views import TrainingViews

CHECKPOINT = "checkpoint.pt"
"""Latest state of a run: weights and everything needed to go on."""
MODEL = "model.pt"
"""Final weights."""
_FREE_KEYS = (
    "output",
    "data.root",
    "data.test_split",
    "training.threads",
    "training.workers",
    "training.log_every",
    "training.checkpoint_every",
    "training.recompute",
)
"""Settings that may differ between the parts of a resumed run: they change the weights by rounding at most."""


class TrainingStep(nn.Module):
    """Network and objective as one module, so that wrappers (DDP) see a single forward."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = build_model(config, pretrained=True)
        self.objective = build_objective(config)

    def forward(
        self,
        image: Tensor,
        label: Tensor,
        generator: torch.Generator,
        origin: Origin = (0, 0),
        semantic: Tensor | None = None,
    ) -> Losses:
        output = self.model(image, origin)
        losses: Losses = self.objective(output, label, self.model.grouping, generator, semantic)
        return losses


def train(
    config: Config, *, resume: bool = False, build: Callable[[Config], nn.Module] = TrainingStep
) -> Path:
    """Train `config` to its last step, in this process or in each of those that a launcher started.

    Args:
        config: all settings; `config.output` must be set.
        resume: go on from the output folder's checkpoint where there is one.
        build: what is trained, a module with `TrainingStep`'s forward whose `model` holds the weights to keep.

    Returns:
        Path of the final weights.

    Raises:
        UserError: the output folder already holds a run and `resume` is off, the run there had other settings or
            another number of processes, or the precision asked for cannot be had here.
    """
    output = Path(config.output)
    state = _previous_state(output / CHECKPOINT, config, resume)
    if config.training.threads > 0:
        torch.set_num_threads(config.training.threads)
    torch.set_flush_denormal(True)
    with _accelerator(config) as accelerator:
        _train(accelerator, config, state, build)
    return output / MODEL


@contextmanager
def _accelerator(config: Config) -> Iterator[Accelerator]:
    """Device, precision and processes of one run."""
    if config.training.precision == "fp16" and not torch.accelerator.is_available():
        raise UserError(
            "training.precision is 'fp16', which needs a GPU, and PyTorch sees none here: "
            "take 'bf16', which runs on a CPU too, or 'no'"
        )
    if torch.distributed.is_available():
        # PyTorch imports it at some later time, and functions in it then keep the process group of that time forever,
        # as the default of an argument.
        importlib.import_module("torch.distributed.nn")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # said, because accelerate joins CPU processes only when asked
        mixed_precision=config.training.precision,
        gradient_accumulation_steps=config.training.accumulate,
        log_with="tensorboard",
        project_dir=config.output,
        # Views without any object pass no gradient through the grouping.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.grouping.learn_kappa)],
    )
    try:
        yield accelerator
        # No process goes on, or takes its connections away, before the first one has written the last file.
        accelerator.wait_for_everyone()
        # With the last reference to the process group its threads end. One that still let go of a tensor while Python
        # shuts down would abort the process.
        accelerator.free_memory()
        accelerator.end_training()
    finally:
        if accelerator.num_processes == 1:
            # accelerate keeps one state a process; the next run in it may have another precision.
            AcceleratorState._reset_state(reset_partial_state=True)


def _train(
    accelerator: Accelerator,
    config: Config,
    state: dict[str, Any] | None,
    build: Callable[[Config], nn.Module],
) -> None:
    """The steps of a run, from the beginning or from a checkpoint's state."""
    checkpoint = Path(config.output) / CHECKPOINT
    set_seed(config.seed)
    step_module = build(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        step_module = nn.SyncBatchNorm.convert_sync_batchnorm(step_module)
    optimizer = torch.optim.AdamW(
        step_module.parameters(), lr=config.training.learning_rate, weight_decay=config.training.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, config.training))
    start = 0
    if state is not None:
        _check_processes(state, accelerator.num_processes, checkpoint)
        load_weights(step_module.model, state["model"], str(checkpoint))
        optimizer.load_state_dict(state["training"]["optimizer"])
        scheduler.load_state_dict(state["training"]["scheduler"])
        start = int(state["training"]["step"])
    samples = open_dataset(config.data.root, config.data.train_split or None)
    classes = Classes.of(samples)
    loader = _loader(config, samples, start, accelerator.num_processes)
    step_module, optimizer, loader = accelerator.prepare(step_module, optimizer, loader)
    accelerator.init_trackers("tensorboard", config=_trackable(config))
    if state is not None:
        set_random_state(state["training"]["random"][accelerator.process_index])
        if accelerator.scaler is not None and state["training"]["scaler"] is not None:
            accelerator.scaler.load_state_dict(state["training"]["scaler"])
    batches = iter(loader)
    step_module.train()
    with TrainingProgress(config.training.steps, start, show=accelerator.is_main_process) as progress:
        progress.begin(_circumstances(accelerator, config))
        for step in range(start, config.training.steps):
            losses = _one_step(accelerator, step_module, optimizer, batches, config, step)
            scheduler.step()
            done = step + 1
            if done % config.training.log_every == 0 or done == config.training.steps:
                values = _scalars(accelerator.reduce(losses, "mean"), scheduler.get_last_lr()[0])
                accelerator.log(values, step=done)
                progress.report(done, values)
            progress.advance()
            if done % config.training.checkpoint_every == 0 or done == config.training.steps:
                _save(accelerator, step_module, optimizer, scheduler, config, classes, done)
    if state is not None and start == config.training.steps and state["config"].decode != config.decode:
        # The run was finished, and is to be decoded by other rules.
        _save(accelerator, step_module, optimizer, scheduler, config, classes, start)


def _circumstances(accelerator: Accelerator, config: Config) -> str:
    """Where and how a run trains: what a launcher may have understood otherwise."""
    training, processes = config.training, accelerator.num_processes
    return (
        f"training on {accelerator.device.type} in {processes} process{'es' if processes > 1 else ''}, "
        f"{training.batch_size * training.accumulate * processes} views a step, precision {training.precision}"
    )


def _one_step(
    accelerator: Accelerator,
    step_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[dict[str, Tensor]],
    config: Config,
    step: int,
) -> Losses:
    """One optimiser step over `accumulate` batches; the losses are the means over them."""
    parts = []
    for _ in range(config.training.accumulate):
        batch = next(batches)
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        # Anew for every batch and in every process: all views of a step see the same windows.
        generator = sample_generator(config.seed, 1, step)
        with accelerator.accumulate(step_module):
            losses: Losses = step_module(
                image, batch["label"], generator, batch["origin"], batch.get("semantic")
            )
            accelerator.backward(losses.total)
            if config.training.clip > 0 and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(step_module.parameters(), config.training.clip)
            optimizer.step()
            optimizer.zero_grad()
        parts.append(losses)
    return Losses(*(torch.stack(values).detach().mean(0) for values in zip(*parts, strict=True)))


def _loader(
    config: Config, samples: Dataset, start: int, num_processes: int
) -> torch.utils.data.DataLoader[dict[str, Tensor]]:
    """Views from `start` to the last step, in order."""
    settings = config.training
    per_step = settings.batch_size * settings.accumulate * num_processes
    views = TrainingViews(
        samples,
        config.data,
        config.model,
        seed=config.seed,
        count=settings.steps * per_step,
        prepare=tasks.get(config.task).training_sample,
    )
    views.load()
    return torch.utils.data.DataLoader(
        views,
        batch_size=settings.batch_size,
        sampler=range(start * per_step, len(views)),
        num_workers=settings.workers,
        # A generator of its own: a loader draws from it when it starts, and a resumed run starts one more.
        generator=torch.Generator().manual_seed(config.seed),
    )


def _save(
    accelerator: Accelerator,
    step_module: nn.Module,
    optimizer: Any,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    config: Config,
    classes: Classes,
    step: int,
) -> None:
    """Write the checkpoint, and after the last step the final weights too."""
    states = gather_object([random_state()])
    if not accelerator.is_main_process:
        return
    weights = accelerator.unwrap_model(step_module).model.state_dict()
    training = {
        "step": step,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        "random": states,
    }
    output = Path(config.output)
    if step == config.training.steps:
        # First, so that a checkpoint of the last step never stands there without it.
        save_checkpoint(output / MODEL, config, weights, classes=classes)
    save_checkpoint(output / CHECKPOINT, config, weights, training, classes)


def _previous_state(path: Path, config: Config, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a fresh run."""
    if not path.exists():
        return None
    if not resume:
        raise UserError(
            f"{path}: this folder already holds a run; add --resume to go on, or choose another --output"
        )
    state = read_checkpoint(path)
    before, now = flatten(to_mapping(state["config"])), flatten(to_mapping(config))
    changed = [key for key in now if before[key] != now[key] and not _is_free(key)]
    if changed:
        listing = ", ".join(f"{key} was {before[key]!r} and is {now[key]!r}" for key in changed)
        raise UserError(
            f"{path}: the run cannot be resumed with other settings: {listing}; undo them or choose another --output"
        )
    return state


def _check_processes(state: dict[str, Any], processes: int, path: Path) -> None:
    """Each process has a random state of its own, and their number is part of the batch."""
    before = len(state["training"]["random"])
    if before != processes:
        raise UserError(
            f"{path}: the run had {before} process(es) and now has {processes}; "
            "start as many, or choose another --output"
        )


def _is_free(key: str) -> bool:
    """Whether a resumed run may have another value: decoding comes after the weights."""
    return key in _FREE_KEYS or key.startswith("decode.")


def _scalars(losses: Losses, rate: Any) -> dict[str, float]:
    """What TensorBoard and the progress bar show."""
    heads = {name: getattr(losses, name).item() for name in ("foreground", "semantic", "boundary")}
    values = {"loss/total": losses.total.item(), "rate": float(rate)}
    # The loss of a head that the model lacks is exactly 0.
    values.update({f"loss/{name}": value for name, value in heads.items() if value})
    values.update({f"loss/step_{index}": value for index, value in enumerate(losses.steps.tolist())})
    return values


def _trackable(config: Config) -> dict[str, Any]:
    """The config as TensorBoard takes it: numbers and strings."""
    flat = flatten(to_mapping(replace(config)))
    return {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in flat.items()}
