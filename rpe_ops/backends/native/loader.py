"""The loaded extension: found prebuilt in the package, or in the cache, or built; once per process.

A failure is remembered and raised again with the same words, so that a call in a loop does not compile in a loop.
Loading registers `torch.ops.rpe_ops_native.*`; the module itself only answers questions (`build_info`).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import threading
from pathlib import Path
from types import ModuleType

import torch

from rpe_ops import settings
from rpe_ops.backends.native import build, cache

_lock = threading.Lock()
_module: ModuleType | None = None
_failure: str | None = None


def load() -> ModuleType:
    """The extension module, built if need be. Raises BuildError, the same each time."""
    global _module, _failure
    with _lock:
        if _module is not None:
            return _module
        if _failure is not None:
            raise build.BuildError(_failure)
        try:
            _module = _import(_library())
        except (build.BuildError, ImportError, OSError, RuntimeError) as error:
            _failure = str(error)
            raise build.BuildError(_failure) from None
        return _module


def unavailable_reason() -> str | None:
    """Why `load` cannot succeed, as far as a look around can tell; None otherwise. Builds nothing."""
    if _module is not None:
        return None
    if _failure is not None:
        return _failure
    if prebuilt() is not None:
        return None
    reason = build.obstacle()
    return (
        f"{reason} (the prebuilt library is for another torch)" if reason and _carried().is_file() else reason
    )


def prebuilt() -> Path | None:
    """The library that a platform wheel carries, where it fits this Python, this torch and these sources."""
    library = _carried()
    manifest = build.verify(library) if library.is_file() else None
    if manifest is None or manifest["torch"] != torch.__version__:
        return None
    return library if manifest["sources"] == build.sources_digest(build.find_csrc()) else None


def _carried() -> Path:
    return Path(__file__).resolve().parent / f"{build.MODULE_NAME}{build.extension_suffix()}"


def describe() -> dict[str, str]:
    """Facts for a bug report: what is loaded, or why nothing is."""
    if _module is not None:
        facts = {key: _text(value) for key, value in _module.build_info().items()}
        return {"state": f"loaded from {_module.__file__}", **facts}
    reason = unavailable_reason()
    if reason is not None:
        return {"state": f"cannot run: {reason}"}
    compiler = build.find_compiler()
    return {"state": "not loaded yet", "compiler": " ".join(compiler or ("none needed",))}


def _text(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _library() -> Path:
    ready = prebuilt()
    return ready if ready is not None else cache.library_for(build.make_recipe(), settings.cache_root())


def _import(library: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(build.MODULE_NAME, str(library))
    spec = importlib.util.spec_from_file_location(build.MODULE_NAME, library, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise build.BuildError(
            f"rpe_ops: the built library does not load: {error}\n"
            f"Remedy: remove {library.parent} to build it again, or use backend='torch'."
        ) from None
    return module
