"""The life of the just-in-time build: locks, killed builds, damaged files, missing programs, digests.

Most tests build a tiny extension of one empty C++ file; only the last one loads the real library, from the cache that
the other tests use too. What the CUDA extension adds is in `test_cuda_build.py`. Nothing here checks an operator.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from rpe_ops import settings
from rpe_ops.backends import native
from rpe_ops.backends.native import loader
from rpe_ops.extensions import build, cache, cpu, cuda
from rpe_ops.extensions.loader import Loader

TINY = 'extern "C" int rpe_ops_tiny() { return 42; }\n'

needs_compiler = pytest.mark.skipif(
    build.obstacle() is not None, reason=f"cannot compile: {build.obstacle()}"
)


def tiny_recipe(folder: Path, source: str = TINY) -> build.Recipe:
    """A recipe of one small file that needs neither Torch nor Python."""
    csrc = folder / "csrc"
    (csrc / "launch").mkdir(parents=True, exist_ok=True)
    (csrc / "launch" / "tiny.cpp").write_text(source, encoding="utf-8")
    recipe = cpu.make_recipe(csrc)
    flags = ("-shared", "-fPIC")
    return dataclasses.replace(recipe, link_flags=flags)


def build_in_subprocess(folder: Path, compiler: Path, root: Path) -> subprocess.Popen[str]:
    """Another Python that builds the tiny recipe of `folder` with `compiler` into the cache `root`."""
    program = f"""
        import dataclasses
        from pathlib import Path
        from rpe_ops.extensions import cache, cpu
        recipe = cpu.make_recipe(Path({str(folder / "csrc")!r}))
        recipe = dataclasses.replace(recipe, link_flags=("-shared", "-fPIC"))
        print(cache.library_for(recipe, Path({str(root)!r})))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "CXX": str(compiler), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wrapped_compiler(folder: Path, name: str, before: str) -> Path:
    """A compiler that runs shell commands before each compilation, and answers `--version` at once."""
    real = build.find_compiler()
    assert real is not None
    path = folder / name
    path.write_text(
        f'#!/bin/sh\nif [ "$1" != --version ]; then\n{before}\nfi\nexec {real[0]} "$@"\n', encoding="utf-8"
    )
    path.chmod(0o755)
    return path


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


# Building


@needs_compiler
def test_builds_once_and_says_so_in_two_lines(tmp_path, capsys):
    recipe, root = tiny_recipe(tmp_path), tmp_path / "cache"
    root.mkdir()
    library = cache.library_for(recipe, root)
    first = capsys.readouterr()
    assert library.is_file() and library.parent.parent == root
    lines = first.err.splitlines()
    assert first.out == "" and len(lines) == 2
    assert "building" in lines[0] and "built in" in lines[1] and str(library) in lines[1]
    assert cache.library_for(recipe, root) == library
    assert capsys.readouterr().err == ""
    assert not list(root.glob("*.build-*"))


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "changed", "no manifest", "bad manifest", "empty folder"])
def test_a_damaged_library_is_built_again(tmp_path, capsys, damage):
    recipe = tiny_recipe(tmp_path)
    library = cache.library_for(recipe, tmp_path)
    original = library.read_bytes()
    manifest = library.parent / cpu.EXTENSION.manifest_name
    if damage == "truncated":
        library.write_bytes(original[: len(original) // 2])
    elif damage == "changed":
        library.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "bad manifest":
        manifest.write_text("[]", encoding="utf-8")
    else:
        library.unlink()
        manifest.unlink()
    assert build.verify(library, cpu.EXTENSION) is None
    capsys.readouterr()
    assert cache.library_for(recipe, tmp_path) == library
    assert "built in" in capsys.readouterr().err
    assert build.verify(library, cpu.EXTENSION) is not None


@needs_compiler
def test_a_compiler_error_shows_its_words_and_the_remedy(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path, "int broken() { return undeclared_name; }\n")
    with pytest.raises(build.BuildError) as caught:
        cache.library_for(recipe, tmp_path)
    message = str(caught.value)
    assert "undeclared_name" in message and "Remedy" in message
    assert "FAILED" not in message and "Traceback" not in message
    assert "failed" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("*.build-*")), "the temporary folder of a failed build is removed"


# Several processes


@needs_compiler
def test_two_processes_build_once(tmp_path):
    tiny_recipe(tmp_path)
    log = tmp_path / "compilations"
    compiler = wrapped_compiler(tmp_path, "slow-compiler", f'echo run >> "{log}"\nsleep 1')
    root = tmp_path / "cache"
    root.mkdir()
    processes = [build_in_subprocess(tmp_path, compiler, root) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0], "both use the same library"
    assert len(log.read_text().splitlines()) == 2, "one compilation and one link"
    said = "".join(error for _, error in outputs)
    assert said.count("building the native kernels with") == 1
    assert said.count("waiting for another process") == 1


@needs_compiler
def test_a_killed_build_leaves_no_lock_and_no_folder(tmp_path):
    tiny_recipe(tmp_path)
    root = tmp_path / "cache"
    root.mkdir()
    started = tmp_path / "started"
    stuck = wrapped_compiler(
        tmp_path, "compiler", f'if [ ! -e "{started}" ]; then touch "{started}"; sleep 600; fi'
    )
    victim = build_in_subprocess(tmp_path, stuck, root)
    try:
        wait_until(started.exists)
        assert list(root.glob("*.build-*"))
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    # Its compiler still runs, as after a real kill of the parent alone; nobody waits for it.
    try:
        begun = time.monotonic()
        survivor = build_in_subprocess(tmp_path, stuck, root)
        output, errors = survivor.communicate(timeout=60)
        assert survivor.returncode == 0, errors
        assert time.monotonic() - begun < 60
        assert build.verify(Path(output.strip()), cpu.EXTENSION) is not None
        assert not list(root.glob("*.build-*")), "what the killed build left is removed"
    finally:
        os.killpg(victim.pid, signal.SIGKILL)


@needs_compiler
def test_leftovers_of_other_digests_are_removed_unless_they_are_being_built(tmp_path):
    abandoned, active = tmp_path / "aaaa.build-1", tmp_path / "bbbb.build-1"
    abandoned.mkdir()
    active.mkdir()
    with cache.locked(tmp_path / "bbbb.lock", 1.0):
        cache.library_for(tiny_recipe(tmp_path), tmp_path)
        assert not abandoned.exists() and active.exists()


def test_a_lock_that_is_held_too_long_is_an_error_with_a_remedy(tmp_path, capsys):
    path = tmp_path / "digest.lock"
    with cache.locked(path, 1.0):
        with pytest.raises(build.BuildError, match="RPE_OPS_CACHE_DIR"):
            with cache.locked(path, 0.3):
                pytest.fail("the lock was taken twice")
    assert len(capsys.readouterr().err.splitlines()) == 1
    with cache.locked(path, 0.0):
        pass


# Places


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="permissions work differently")
def test_an_unwritable_home_falls_back_to_a_private_folder(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder should be")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.delenv(settings.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setenv("HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    library = cache.library_for(tiny_recipe(tmp_path), settings.cache_root())
    assert library.is_relative_to(temporary)
    assert library.parent.parent.stat().st_mode & 0o077 == 0


def test_a_named_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv(settings.CACHE_VARIABLE, str(blocked / "cache"))
    with pytest.raises(RuntimeError, match=settings.CACHE_VARIABLE):
        settings.cache_root()


# Programs


def test_no_compiler_is_a_reason_and_not_a_crash(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    reason = build.obstacle()
    assert reason is not None
    if sys.platform != "win32":
        assert "compiler" in reason and "g++" in reason
    with pytest.raises(build.BuildError, match="rpe_ops: "):
        cpu.make_recipe()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a reason of its own")
def test_a_named_compiler_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in str(build.obstacle())


@pytest.mark.parametrize(
    "version, refused",
    [
        ("g++ (Ubuntu 9.4.0-1ubuntu1~20.04.2) 9.4.0", True),
        ("g++ (GCC) 11.4.1 20230605 (Red Hat 11.4.1-2)", False),
        ("x86_64-conda-linux-gnu-c++ (conda-forge gcc 10.4.0-19) 10.4.0", True),
        ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0", False),
        ("Debian clang version 11.0.1-2", True),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", False),
        ("Intel(R) oneAPI DPC++/C++ Compiler 2024.0.0 (2024.0.0.20231017)", False),
    ],
)
def test_an_old_compiler_is_named_with_the_remedy(version, refused):
    reason = build.too_old(version)
    assert (reason is not None) == refused
    if reason is not None:
        assert version in reason and "g++ 11" in reason and "CXX" in reason


@needs_compiler
def test_an_old_or_broken_compiler_is_a_reason(monkeypatch, tmp_path):
    for name, body, expected in (
        ("old", "echo 'g++ (GCC) 8.5.0'", "too old"),
        ("broken", "exit 1", "does not run"),
    ):
        compiler = tmp_path / name
        compiler.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        assert expected in str(build.obstacle())
        with pytest.raises(build.BuildError, match=expected):
            cpu.make_recipe()


@needs_compiler
def test_a_library_outlives_its_compiler(monkeypatch, tmp_path):
    built = cache.library_for(tiny_recipe(tmp_path), tmp_path)
    root = tmp_path / "cache"
    shutil.copytree(built.parent, root / "made_by_another_compiler")
    csrc = tmp_path / "csrc"
    monkeypatch.setattr(build, "find_csrc", lambda: csrc)
    monkeypatch.setenv(settings.CACHE_VARIABLE, str(root))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    without = Loader(cpu.EXTENSION)
    monkeypatch.setattr(without, "prebuilt", lambda: None)
    assert build.obstacle() is not None
    assert without.unavailable_reason() is None
    assert without._library() == root / "made_by_another_compiler" / cpu.EXTENSION.library_name
    (csrc / "launch" / "tiny.cpp").write_text(TINY + "int more;\n", encoding="utf-8")  # other sources
    assert without.unavailable_reason() == build.obstacle()
    with pytest.raises(build.BuildError, match="compiler"):
        without._library()


def test_without_compiler_the_backend_is_unavailable_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(settings.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(loader, "_module", None)
    monkeypatch.setattr(loader, "_failure", None)
    monkeypatch.setattr(loader, "prebuilt", lambda: None)
    assert native.unavailable_reason(torch.device("cpu")) == build.obstacle()
    assert native.describe()["state"].startswith("cannot run")
    assert "cuda" in str(native.unavailable_reason(torch.device("cuda")))
    with pytest.raises(build.BuildError) as first:
        loader.load()
    with pytest.raises(build.BuildError) as second:
        loader.load()
    assert str(first.value) == str(second.value), "a failure is remembered"


@pytest.mark.parametrize("jobs, expected", [("1", 1), ("0", None), ("many", None), ("", None)])
def test_max_jobs(monkeypatch, jobs, expected):
    monkeypatch.setenv("MAX_JOBS", jobs)
    count = build.num_jobs(1)
    assert count >= 1 and (expected is None or count == expected)


def test_memory_bounds_the_jobs(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "64")
    monkeypatch.setattr(build, "free_memory", lambda: 7 << 30)
    assert build.num_jobs(3 << 30) == 2
    assert build.num_jobs(8 << 30) == 1, "one job always runs"
    monkeypatch.setattr(build, "free_memory", lambda: None)
    assert build.num_jobs(3 << 30) == 64


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    limit, none = tmp_path / "memory.max", tmp_path / "unlimited"
    limit.write_text("1234567\n")
    none.write_text("max\n")
    monkeypatch.setattr(build, "MEMORY_LIMITS", (str(none), str(limit), str(tmp_path / "absent")))
    assert build.free_memory() == 1234567


# Digests


@needs_compiler
def test_the_digest_follows_sources_and_flags(tmp_path):
    first = tiny_recipe(tmp_path).digest
    assert tiny_recipe(tmp_path).digest == first
    assert tiny_recipe(tmp_path, TINY + "// a comment\n").digest != first
    assert tiny_recipe(tmp_path).digest == first
    (tmp_path / "csrc" / "launch" / "extra.h").write_text("\n")
    assert tiny_recipe(tmp_path).digest != first
    (tmp_path / "csrc" / "launch" / "extra.h").unlink()
    assert cpu.make_recipe(tmp_path / "csrc", extra_flags=("-g",)).digest != first


def test_each_extension_has_a_digest_of_its_own_folders(tmp_path):
    def digests() -> tuple[str, str]:
        return build.sources_digest(cpu.EXTENSION, tmp_path), build.sources_digest(cuda.EXTENSION, tmp_path)

    before = digests()
    for name, changed in (
        ("math/exp2.h", (True, True)),
        ("launch/plan.h", (True, True)),
        ("launch/plan.cpp", (True, False)),
        ("cpu/kernel.cpp", (True, False)),
        ("torch/module.cpp", (True, False)),
        ("torch/check.h", (True, False)),
        ("cuda/kernel.cu", (False, True)),
        ("cuda/tiles.cuh", (False, True)),
        ("torch/cuda/module.cpp", (False, True)),
        ("cuda/notes.md", (False, False)),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n")
        after = digests()
        assert (before[0] != after[0], before[1] != after[1]) == changed, name
        before = after


@needs_compiler
def test_every_source_is_compiled_by_the_folder_rule():
    recipe = cpu.make_recipe()
    compiled = {source for _, source, _ in recipe.objects}
    assert compiled == set(recipe.csrc.rglob("*.cpp")) - set((recipe.csrc / "torch" / "cuda").glob("*.cpp"))
    assert compiled <= set(build.sources_of(cpu.EXTENSION, recipe.csrc))
    names = [name for name, _, _ in recipe.objects]
    assert len(names) == len(set(names))


def test_paths_with_spaces_and_dollars_survive_in_the_build_file(tmp_path):
    if build.obstacle() is not None:
        pytest.skip(f"cannot compile: {build.obstacle()}")
    folder = tmp_path / "a folder: with $ signs"
    folder.mkdir()
    assert cache.library_for(tiny_recipe(folder), tmp_path).is_file()


# The real library


def test_the_real_library_answers_questions(backend):
    if backend != "cpu":
        pytest.skip("another backend")
    module = loader.load()
    info = module.build_info()
    assert info["simd"] in info["simd_supported"]
    assert set(info["simd_supported"]) <= set(info["simd_compiled"])
    assert info["openmp"] or sys.platform == "darwin"
    library = Path(module.__file__)
    manifest = json.loads((library.parent / cpu.EXTENSION.manifest_name).read_text())
    assert manifest["digest"] == info["digest"]
    assert manifest["sources"] == build.sources_digest(cpu.EXTENSION, build.find_csrc())
    assert loader.load() is module
