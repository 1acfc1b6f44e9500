"""Which GPU architectures the CUDA extension is compiled for, and which GPUs a compiled one serves.

An architecture is written as in TORCH_CUDA_ARCH_LIST: "8.0" is machine code for one compute capability, "9.0a" needs
exactly that GPU, "+PTX" adds code that newer GPUs translate. Functions of texts and numbers; nothing here asks a GPU,
nvcc or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .build import Obstacle

Capability = tuple[int, int]

# Asynchronous copies and the tensor-core shapes of the kernels begin here.
OLDEST: Capability = (8, 0)
# What an ahead-of-time build is for where no GPU says more; newer ones take the PTX of the last.
NAMED_LIST = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
# PyTorch's names of generations; older generations have no capability that serves.
GENERATIONS = {
    "ampere": "8.0 8.6+PTX",
    "ampere+tegra": "8.7",
    "ada": "8.9+PTX",
    "hopper": "9.0+PTX",
    "blackwell": "10.0 10.3 12.0 12.1+PTX",
    "blackwell+tegra": "11.0",
    **dict.fromkeys(("kepler", "maxwell", "pascal", "volta", "turing"), "7.5"),
}
PATTERN = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?", re.IGNORECASE)


def known_to_nvcc(listing: str) -> tuple[Capability, ...]:
    """The capabilities in the answer to `nvcc --list-gpu-arch`, ascending."""
    numbers = (int(number) for number in re.findall(r"compute_(\d+)", listing))
    return tuple(sorted(divmod(number, 10) for number in numbers))


def choose(listed: str | None, gpus: Iterable[Capability], known: tuple[Capability, ...]) -> tuple[str, ...]:
    """What to compile for: the list where there is one, else the GPUs that are here, else the named list.

    Args:
        listed: the text of TORCH_CUDA_ARCH_LIST.
        gpus: compute capabilities of the visible GPUs.
        known: what nvcc compiles for, ascending.

    Raises:
        Obstacle: nothing in the list or none of the GPUs can be served.
    """
    gpus = sorted(set(gpus))
    if listed is not None and listed.strip(" ;,"):
        return from_list(listed, known)
    if gpus:
        return for_gpus(gpus, known)
    named = [text(capability) for capability in NAMED_LIST if capability in known]
    if not named:
        raise Obstacle(f"this nvcc compiles for none of {words(NAMED_LIST)}; install another CUDA toolkit")
    return (*named[:-1], f"{named[-1]}+PTX")


def from_list(listed: str, known: tuple[Capability, ...]) -> tuple[str, ...]:
    """The architectures that TORCH_CUDA_ARCH_LIST names, without those that are too old for the kernels."""
    chosen = []
    for word in re.split(r"[;, ]+", listed.strip(" ;,")):
        generation = GENERATIONS.get(word.lower())
        for name in generation.split() if generation else [word]:
            found = PATTERN.fullmatch(name)
            if found is None:
                raise Obstacle(
                    f"TORCH_CUDA_ARCH_LIST={listed} has an entry {word!r} that is no architecture; write compute "
                    f'capabilities, as in "8.0 9.0+PTX", or one of PyTorch\'s names from Ampere on'
                )
            capability = (int(found[1]), int(found[2]))
            if capability < OLDEST:
                continue
            if capability in known:
                chosen.append(f"{text(capability)}{found[3].lower()}{(found[4] or '').upper()}")
            elif not generation:
                raise Obstacle(
                    f"TORCH_CUDA_ARCH_LIST={listed} names {word}, this nvcc compiles for {words(known)}; name one of "
                    "these, or install a newer CUDA toolkit"
                )
    if not chosen:
        raise Obstacle(
            f"TORCH_CUDA_ARCH_LIST={listed} names nothing that can be compiled for; the kernels need compute "
            f"capability {text(OLDEST)} or newer, and this nvcc compiles for {words(known)}"
        )
    return tuple(dict.fromkeys(chosen))


def for_gpus(gpus: Iterable[Capability], known: tuple[Capability, ...]) -> tuple[str, ...]:
    """The architectures that serve these GPUs; PTX of the newest that nvcc knows for a GPU that it does not know."""
    gpus = list(gpus)
    chosen: dict[Capability, str] = {}
    for gpu in gpus:
        newest = max((capability for capability in known if OLDEST <= capability <= gpu), default=None)
        if newest is not None and (newest not in chosen or newest < gpu):
            chosen[newest] = text(newest) + ("+PTX" if newest < gpu else "")
    if not chosen:
        raise Obstacle(
            f"no GPU here can be compiled for: compute capability {words(gpus)}; the kernels need {text(OLDEST)} or "
            f"newer, and this nvcc compiles for {words(known)}"
        )
    return tuple(chosen.values())


def nvcc_flags(architectures: Iterable[str]) -> tuple[str, ...]:
    """One `-gencode` for the machine code of each architecture, and one for its PTX where that is asked for."""
    flags = []
    for architecture in architectures:
        number = architecture.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return tuple(flags)


def covers(architectures: Iterable[str], gpu: Capability) -> bool:
    """Whether code for these architectures runs on a GPU: machine code of its generation, or PTX that is older."""
    for architecture in architectures:
        found = PATTERN.fullmatch(architecture)
        assert found is not None, architecture
        capability, only = (int(found[1]), int(found[2])), found[3]
        if capability == gpu:
            return True
        same_generation = capability[0] == gpu[0] and only != "a"
        if capability < gpu and (same_generation or (found[4] and not only)):
            return True
    return False


def text(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


def words(capabilities: Iterable[Capability]) -> str:
    return " ".join(text(capability) for capability in capabilities)
