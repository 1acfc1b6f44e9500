"""Everything the environment may say to rpe_ops, read in one place.

The only module of the operators that looks at `os.environ`, but for `extensions/build.py` and `extensions/toolkit.py`:
they read what compilers and PyTorch read too (CXX, CUDA_HOME, CUDA_PATH, MAX_JOBS, TORCH_CUDA_ARCH_LIST).
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

INTERPRETER_VARIABLE = "TRITON_INTERPRET"
CACHE_VARIABLE = "RPE_OPS_CACHE_DIR"


def triton_interprets() -> bool:
    """Whether Triton's own switch asks it to interpret kernels instead of compiling them."""
    return os.environ.get(INTERPRETER_VARIABLE, "0").lower() in ("1", "true", "on", "yes", "y")


def user_cache_directory() -> Path:
    """The platform's folder for caches, as its conventions name it."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def cache_root() -> Path:
    """The folder that holds built native libraries; it exists and is writable when this returns.

    In this order: the environment variable `RPE_OPS_CACHE_DIR`; `rpe_ops` in the user's cache folder; where that
    cannot be written, a private folder of this user in the system's temporary folder.

    Raises:
        RuntimeError: `RPE_OPS_CACHE_DIR` names a folder that cannot be created or written, or no folder can.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        root = Path(named).expanduser()
        if not _is_writable_folder(root):
            raise RuntimeError(
                f"rpe_ops: {CACHE_VARIABLE}={named} cannot be created or written; name a writable folder or unset it"
            )
        return root
    root = user_cache_directory() / "rpe_ops"
    if _is_writable_folder(root):
        return root
    return _private_temporary_folder()


def _is_writable_folder(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".probe-"):
            return True
    except OSError:
        return False


def _private_temporary_folder() -> Path:
    """A folder only this user can write: what is loaded from it is run, so nobody else may place files there."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    root = Path(tempfile.gettempdir()) / f"rpe_ops-{user}"
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    owned = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
    if not stat.S_ISDIR(status.st_mode) or not owned or not _is_writable_folder(root):
        raise RuntimeError(
            f"rpe_ops: no writable cache folder (tried the user's cache folder and {root}); "
            f"set {CACHE_VARIABLE} to a folder that only you can write"
        )
    return root
