"""check_dists.py TREE SDIST WHEEL SDIST: each holds all that it should, and nothing else.

The second sdist was made of the same tree later and elsewhere: it has the same bytes.
"""

import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path

MADE = re.compile(r"PKG-INFO|setup\.cfg|jessy_mem\.egg-info/.*")  # by the build, in the sdist
LEFT_OUT = re.compile(r"\.gitignore|\.pre-commit-config\.yaml|\.github/.*")  # of the tree, by the sdist
SBOM = re.compile(r"jessy_mem-[^/]*\.dist-info/sboms/jessy_mem\.cdx\.json")  # PEP 770
SHARED = "jessy_mem/_core/_shared"  # compiled from what Cython writes, without a source of ours
SOURCES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".typed"}  # of the package, in the wheel


def check_sdist(tree: set[str], path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    held = {name for name in held if not MADE.fullmatch(name)}
    wanted = {name for name in tree if not LEFT_OUT.fullmatch(name)}
    return [f"missing: {name}" for name in sorted(wanted - held)] + [f"extra: {name}" for name in held - wanted]


def check_same(first: Path, second: Path) -> list[str]:
    """Which members differ between two sdists of the same tree, or that the archives do."""
    if first.read_bytes() == second.read_bytes():
        return []
    with tarfile.open(first) as one, tarfile.open(second) as other:
        members = [
            {
                each.name: (each.get_info(), archive.extractfile(each).read() if each.isfile() else b"")
                for each in archive
            }
            for archive in (one, other)
        ]
    names = sorted(set(members[0]) | set(members[1]))
    differ = [name for name in names if members[0].get(name) != members[1].get(name)]
    return [f"made again, differs: {', '.join(differ) or 'the archive itself'}"]


def check_bill(archive: zipfile.ZipFile) -> list[str]:
    """The bill of materials names the wheel's own version, and the Cython that its code comes from."""
    names = [name for name in archive.namelist() if SBOM.fullmatch(name)]
    if len(names) != 1:
        return [f"bill of materials: {names}"]
    bill = json.loads(archive.read(names[0]))
    named = [bill["metadata"]["component"], *bill["components"]]
    version = names[0].split("-")[1].removesuffix(".dist")
    sound = [each["name"] for each in named] == ["jessy-mem", "cython"] and named[0]["version"] == version
    return [] if sound and re.match(r"3\.\d+\.", named[1]["version"]) else [f"bill of materials: {bill}"]


def check_wheel(tree: set[str], path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        held = {name for name in archive.namelist() if not re.match(r"jessy_mem-[^/]*\.dist-info/|.*/$", name)}
        problems = check_bill(archive)
        compiled = {name for name in held if name.endswith(".so")}
        if sys.platform == "linux":
            problems += [f"not stripped: {name}" for name in compiled if b"\0.symtab\0" in archive.read(name)]
    data = {name for name in tree if re.match(r"data/([^/]+\.json$|content/)", name)}
    wanted = {name for name in tree if name.startswith("jessy_mem/") and Path(name).suffix in SOURCES}
    wanted |= {f"jessy_mem/{name}" for name in data}
    problems += [f"missing: {name}" for name in sorted(wanted - held)]
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
    sdist, wheel, again = map(Path, dists)
    problems = [f"{sdist.name}: {problem}" for problem in [*check_sdist(tree, sdist), *check_same(sdist, again)]]
    problems += [f"{wheel.name}: {problem}" for problem in check_wheel(tree, wheel)]
    print("\n".join(problems) or f"sound: {sdist.name}, {wheel.name}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
