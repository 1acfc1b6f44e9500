"""A loaded extension: found prebuilt in the package, or in the cache, or built; once per process.

A library of the cache belongs to one compiler's version; where no compiler is left, what an earlier one made serves. A
failure is remembered and raised again with the same words, so that a call in a loop does not compile in a loop. Loading
registers the operators with torch; the module itself only answers questions (`build_info`).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import threading
from pathlib import Path
from types import ModuleType

import torch

from rpe_ops import settings
from rpe_ops.extensions import build, cache


class Loader:
    """Loads one extension when it is first asked for."""

    def __init__(self, extension: build.Extension) -> None:
        self._extension = extension
        self._lock = threading.Lock()
        self._module: ModuleType | None = None
        self._failure: str | None = None

    def load(self) -> ModuleType:
        """The extension module, built if need be. Raises BuildError, the same each time."""
        with self._lock:
            if self._module is not None:
                return self._module
            if self._failure is not None:
                raise build.BuildError(self._failure)
            try:
                self._module = self._import(self._library())
            except (build.BuildError, ImportError, OSError, RuntimeError) as error:
                self._failure = str(error)
                raise build.BuildError(self._failure) from None
            return self._module

    def unavailable_reason(self) -> str | None:
        """Why `load` cannot succeed, as far as a look around can tell; None otherwise. Builds nothing."""
        if self._module is not None:
            return None
        if self._failure is not None:
            return self._failure
        if self.prebuilt() is not None:
            return None
        reason = self._extension.obstacle()
        if reason is None or self._built_earlier() is not None:
            return None
        if not self._carried().is_file():
            return reason
        return f"{reason} (the prebuilt library {self._carried_misfit()})"

    def prebuilt(self) -> Path | None:
        """The library that a platform wheel carries, where it fits this Python, this torch and these sources."""
        library = self._carried()
        return library if library.is_file() and self._carried_misfit() is None else None

    def architectures(self) -> str | None:
        """What the loaded module says that it is built for; None before it is loaded."""
        return None if self._module is None else str(self._module.build_info()["architectures"])

    def describe(self) -> dict[str, str]:
        """Facts for a bug report: what is loaded, or why nothing is, and what would build it."""
        if self._module is not None:
            facts = {key: _text(value) for key, value in self._module.build_info().items()}
            return {"state": f"loaded from {self._module.__file__}", **facts}
        reason = self.unavailable_reason()
        if reason is not None:
            return {"state": f"cannot run: {reason}"}
        return {"state": "not loaded yet", **self._extension.describe()}

    def _carried(self) -> Path:
        return Path(__file__).resolve().parent / self._extension.library_name

    def _built_earlier(self) -> Path | None:
        """The library in the cache that serves where nothing can be built."""
        try:
            return cache.built_earlier(self._extension, settings.cache_root(), self._misfit)
        except (RuntimeError, OSError):  # there is no cache
            return None

    def _carried_misfit(self) -> str | None:
        """Why the library of a platform wheel does not serve here, or None."""
        manifest = build.verify(self._carried(), self._extension)
        return "is damaged" if manifest is None else self._misfit(manifest)

    def _misfit(self, manifest: build.Manifest) -> str | None:
        """Why a library with this manifest does not serve here, or None."""
        if manifest.get("suffix") != build.extension_suffix():
            return f"is for another Python ({manifest.get('suffix')})"
        if manifest["torch"] != torch.__version__:
            return f"is for torch {manifest['torch']}"
        if manifest["sources"] != build.sources_digest(self._extension, build.find_csrc()):
            return "is of other sources"
        return self._extension.misfit(manifest)

    def _library(self) -> Path:
        ready = self.prebuilt()
        if ready is not None:
            return ready
        reason = self._extension.obstacle()
        earlier = None if reason is None else self._built_earlier()
        if earlier is not None:
            return earlier
        build.require(reason)
        return cache.library_for(self._extension.make_recipe(None), settings.cache_root())

    def _import(self, library: Path) -> ModuleType:
        name = self._extension.module_name
        loader = importlib.machinery.ExtensionFileLoader(name, str(library))
        spec = importlib.util.spec_from_file_location(name, library, loader=loader)
        assert spec is not None
        try:
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
        except ImportError as error:
            remedy = (
                "install rpe_ops from a wheel that was built for this machine, or from source"
                if library == self._carried()
                else f"remove {library.parent} to build it again"
            )
            raise build.BuildError(
                f"rpe_ops: the built library does not load: {error}\nRemedy: {remedy}, or use backend='torch'."
            ) from None
        return module


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
