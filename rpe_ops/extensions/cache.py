"""The life of built libraries: one folder per digest, built under a lock in a temporary folder, renamed when finished.

    <root>/<digest>/              the library and its manifest, verified before every use
    <root>/<digest>.lock          locked while somebody builds; the operating system releases it with the process
    <root>/<digest>.build-*/      builds in progress; what killed processes leave here, the next build removes

It knows nothing of what is compiled: the recipes do that. It loads nothing: `loader.py` does that.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rpe_ops.extensions import build

# A build takes minutes at most; whoever waits longer than this is told what to do.
LOCK_TIMEOUT_SECONDS = 900.0
POLL_SECONDS = 0.1


def say(message: str) -> None:
    """One line to the user, who did not ask for a build and must know why a call takes so long."""
    print(f"rpe_ops: {message}", file=sys.stderr, flush=True)


def library_for(recipe: build.Recipe, root: Path, timeout: float = LOCK_TIMEOUT_SECONDS) -> Path:
    """The verified library of this recipe, built if need be. Raises BuildError."""
    library = root / recipe.digest / recipe.library_name
    if build.verify(library, recipe.extension) is not None:
        return library
    with locked(root / f"{recipe.digest}.lock", timeout):
        if build.verify(library, recipe.extension) is not None:  # built by the process that held the lock
            return library
        remove_leftovers(root, recipe.digest)
        shutil.rmtree(library.parent, ignore_errors=True)
        _build(recipe, root, library)
    return library


def built_earlier(
    extension: build.Extension, root: Path, misfit: Callable[[build.Manifest], str | None]
) -> Path | None:
    """A verified library in the cache that fits, whatever compiler made it: for when that one is gone."""
    for manifest_path in sorted(root.glob(f"*/{extension.manifest_name}")):
        library = manifest_path.parent / extension.library_name
        manifest = build.verify(library, extension)
        if manifest is not None and misfit(manifest) is None:
            return library
    return None


def _build(recipe: build.Recipe, root: Path, library: Path) -> None:
    say(
        f"building the {recipe.extension.title} with {recipe.compilers} (once for this torch {recipe.torch_version})"
    )
    started = time.monotonic()
    temporary = Path(tempfile.mkdtemp(prefix=f"{recipe.digest}.build-", dir=root))
    try:
        built = build.compile_into(recipe, temporary)
        finished = temporary / "finished"
        finished.mkdir()
        built = built.rename(finished / recipe.library_name)
        build.write_manifest(built, recipe)
        finished.rename(library.parent)
    except BaseException:
        say(f"the build failed after {time.monotonic() - started:.0f} s")
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"built in {time.monotonic() - started:.0f} s: {library}")


def remove_leftovers(root: Path, own_digest: str) -> None:
    """Remove what killed builds left: ours, whose lock we hold, and those of digests whose lock nobody holds."""
    for folder in root.glob("*.build-*"):
        digest = folder.name.partition(".")[0]
        with contextlib.suppress(OSError, build.BuildError):
            if digest == own_digest:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with locked(root / f"{digest}.lock", 0.0):
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold an operating-system lock. It ends with the process, so a killed build stops nobody."""
    with path.open("a+b") as file:
        deadline = time.monotonic() + timeout
        waiting = False
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise build.BuildError(
                    f"rpe_ops: another process has held {path} for {timeout:.0f} s; end that process, or give this one "
                    "a cache folder of its own through RPE_OPS_CACHE_DIR"
                )
            if not waiting:
                waiting = True
                say(f"waiting for another process that builds the same kernels ({path})")
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise build.BuildError(
                f"rpe_ops: {file.name} cannot be locked ({error}); set RPE_OPS_CACHE_DIR to a folder on a local disk"
            ) from None
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
