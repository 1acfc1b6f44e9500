"""The project's own rules, which no linter knows, over the files that git tracks; pre-commit and .ci/run call it.

Every rule prints `path:line: what is wrong`; the exit status is 1 when anything was found. A rule that needs
an exception gets it here, by path and with the reason, never by a marker in the source.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 500
MAX_BYTES = 200_000
NATIVE = (".h", ".cpp", ".cu", ".cuh")
PROSE = (".md", ".txt")
# Beside the settings, the finders of compilers: CXX, CUDA_HOME, MAX_JOBS and the like are not ours.
ENVIRONMENT_READERS = {"rpe_ops/settings.py", "rpe_ops/extensions/build.py", "rpe_ops/extensions/toolkit.py"}

Finding = tuple[int, str]
Rule = Callable[[str, str], Iterator[Finding]]


def lines_matching(pattern: str, text: str, message: str) -> Iterator[Finding]:
    expression = re.compile(pattern)
    for number, line in enumerate(text.splitlines(), start=1):
        if expression.search(line):
            yield number, message


def torch_only_in_csrc_torch(path: str, text: str) -> Iterator[Finding]:
    if path.startswith("csrc/") and not path.startswith("csrc/torch/"):
        pattern = r'^\s*#\s*include\s*[<"](torch|ATen|c10|pybind11|Python\.h)'
        yield from lines_matching(pattern, text, "only csrc/torch may include Torch or Python")


def environment_in_one_place(path: str, text: str) -> Iterator[Finding]:
    packaged = path.startswith(("rpe_ops/", "python/rpe/"))
    if packaged and path.endswith(".py") and path not in ENVIRONMENT_READERS:
        pattern = r"\bos\.(environ|getenv)\b"
        yield from lines_matching(pattern, text, "the environment is read in rpe_ops/settings.py alone")


def no_fast_math(path: str, text: str) -> Iterator[Finding]:
    if not path.endswith(PROSE) and not path.startswith(".ci/"):
        pattern = r"-ffast-math|use_fast_math|-Ofast|enable_fast_math"
        yield from lines_matching(pattern, text, "no global fast-math: the hinge has a kink")


def no_banners(path: str, text: str) -> Iterator[Finding]:
    if path.endswith((".py", *NATIVE)):
        pattern = r"^\s*(#|//|/\*)\s*[-=*#~/]{4,}"
        yield from lines_matching(pattern, text, "no banner comments: split the file instead")


def no_open_ends(path: str, text: str) -> Iterator[Finding]:
    if path.endswith((".py", *NATIVE)) and not path.startswith(".ci/"):
        yield from lines_matching(r"\b(TODO|FIXME|XXX)\b", text, "open end: file an issue or do it")


def no_commented_out_code(path: str, text: str) -> Iterator[Finding]:
    # Python is covered by ruff's ERA rules.
    if path.endswith(NATIVE):
        pattern = r"^\s*//\s*(\}|(if|for|while|return|auto|const|int|float|double|void|std::).*[;{}])\s*$"
        yield from lines_matching(pattern, text, "commented-out code")


def no_alpha(path: str, text: str) -> Iterator[Finding]:
    """The margin is called margin. Only rpe may say alpha, where matplotlib and pillow mean opacity."""
    message = "say margin (or eta, kappa): `alpha` means three things in the literature"
    if path.startswith("rpe_ops/") and path.endswith(".py"):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and re.search(r"(^|_)alpha(_|$)", token.string):
                yield token.start[0], message
    elif path.startswith("csrc/"):
        code = re.sub(r"//[^\n]*|/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
        yield from lines_matching(r"\balpha\b", code, message)


def no_untidy_space(path: str, text: str) -> Iterator[Finding]:
    yield from lines_matching(r"[ \t]+$", text, "space at the end of the line")
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "no newline at the end of the file"


def no_long_file(path: str, text: str) -> Iterator[Finding]:
    count = text.count("\n")
    if path.endswith((".py", ".txt", ".sh", *NATIVE)) and count > MAX_LINES:
        yield count, f"{count} lines, the limit is {MAX_LINES}: one concept per file"


RULES: list[Rule] = [
    torch_only_in_csrc_torch,
    environment_in_one_place,
    no_fast_math,
    no_banners,
    no_open_ends,
    no_commented_out_code,
    no_alpha,
    no_untidy_space,
    no_long_file,
]


def tracked_files() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


def main() -> int:
    paths = tracked_files()
    found = 0
    for path in paths:
        content = (ROOT / path).read_bytes()
        findings: list[Finding] = []
        if len(content) > MAX_BYTES:
            findings.append((0, f"{len(content)} bytes, the limit is {MAX_BYTES}"))
        if b"\0" not in content:
            text = content.decode("utf-8")
            findings += [finding for rule in RULES for finding in rule(path, text)]
        for line, message in findings:
            print(f"{path}:{line}: {message}")
        found += len(findings)
    print(f"house rules: {len(paths)} files, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
