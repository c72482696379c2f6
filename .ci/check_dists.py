"""check_dists.py TREE SDIST WHEEL: each holds all that it should, and nothing else."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

MADE = re.compile(r"PKG-INFO|setup\.cfg|jessy_mem\.egg-info/.*")  # by the build, in the sdist
LEFT_OUT = {".gitignore"}  # of the tree, by the sdist
SHARED = "jessy_mem/_core/_shared"  # compiled from what Cython writes, without a source of ours
SOURCES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".typed"}  # of the package, in the wheel


def check_sdist(tree: set[str], path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    held = {name for name in held if not MADE.fullmatch(name)}
    return [f"missing: {name}" for name in sorted(tree - LEFT_OUT - held)] + [f"extra: {name}" for name in held - tree]


def check_wheel(tree: set[str], path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        held = {name for name in archive.namelist() if not re.match(r"jessy_mem-[^/]*\.dist-info/|.*/$", name)}
    data = {name for name in tree if re.match(r"data/([^/]+\.json$|content/)", name)}
    wanted = {name for name in tree if name.startswith("jessy_mem/") and Path(name).suffix in SOURCES}
    wanted |= {f"jessy_mem/{name}" for name in data}
    compiled = {name for name in held if name.endswith(".so")}
    problems = [f"missing: {name}" for name in sorted(wanted - held)]
    problems += [f"extra: {name}" for name in sorted(held - wanted - compiled)]
    modules = {SHARED, *(name.removesuffix(".pyx") for name in tree if name.endswith(".pyx"))}
    if modules != {name.partition(".")[0] for name in compiled}:
        problems.append(f"compiled: {sorted(compiled)}, expected {sorted(modules)}")
    texts = [name for name in data if name.endswith(".md")]
    if len(texts) != 56:
        problems.append(f"data: {len(texts)} texts, expected 56")
    return problems


def main(folder: str, *dists: str) -> int:
    root = Path(folder)
    tree = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    problems = []
    for dist in map(Path, dists):
        check = check_wheel if dist.suffix == ".whl" else check_sdist
        problems += [f"{dist.name}: {problem}" for problem in check(tree, dist)]
    print("\n".join(problems) or f"sound: {', '.join(Path(dist).name for dist in dists)}")
    return 1 if problems or len(dists) != 2 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
