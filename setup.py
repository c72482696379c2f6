"""Extensions, compiler directives and build profiles; everything else is in pyproject.toml.

``JESSY_MEM_PROFILE`` chooses the profile: ``release`` (default), ``debug``, ``asan``, ``tsan``, ``fuzz`` or
``coverage``. ``JESSY_MEM_C`` is the folder for the C that Cython makes, ``build`` by default; builds of the same source
can share it, one after the other.
"""

import gzip
import json
import os
import sys
import tarfile
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"]
CHECKED = "-DJM_CHECKED=1"  # invariants (assert.h); debug checks bounds, too
SANITIZED = ["-fno-omit-frame-pointer", CHECKED]
PROFILES = {  # name: (compile flags, link flags, Cython directives)
    "release": (["-O3", "-g0", "-fvisibility=hidden"], ["-Wl,-s"] if sys.platform == "linux" else [], {}),
    "debug": (["-O1", "-g", "-UNDEBUG", CHECKED], [], {"boundscheck": True, "initializedcheck": True}),
    "asan": (
        ["-O0", "-g1", *SANITIZED, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        ["-fsanitize=address,undefined"],
        {},
    ),
    "tsan": (["-O1", "-g1", *SANITIZED, "-fsanitize=thread"], ["-fsanitize=thread"], {}),
    "coverage": (["-O0", "-g0", "--coverage", "-fprofile-update=atomic", "-fprofile-abs-path"], ["--coverage"], {}),
    "fuzz": (["-O1", "-g0", "-fsanitize-coverage=trace-pc,trace-cmp"], [], {}),  # counted by .ci/sanitizers
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "auto_pickle": False,  # what Cython writes for it trusts the state that it is given
    "embedsignature": True,
    # So inspect.signature() knows functions and methods, and stubtest compares them with the stubs. Of a class it knows
    # what the docstring begins with, "Name(parameters)" and "--"; tests/package/test_stubs.py compares that.
    "embedsignature.format": "clinic",
    # A bound method counts a reference on one function object that every thread shares (docs/threading.md).
    "binding": False,
    "freethreading_compatible": True,
}
# Cython's code for typed memoryviews, once for all extensions and not in each of them.
SHARED = "jessy_mem._core._shared"


class BuildExt(build_ext):
    """Run Cython only when extensions are really built, so that no generated C reaches the tree or the sdist."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self):
        from Cython.Build import cythonize

        profile = os.environ.get("JESSY_MEM_PROFILE", "release")
        if profile not in PROFILES:
            raise SystemExit(f"JESSY_MEM_PROFILE={profile!r}: expected one of {', '.join(PROFILES)}")
        compile_flags, link_flags, directives = PROFILES[profile]
        names_lines = profile in ("debug", "coverage")  # what fails, a debugger and gcov name lines of the .pyx
        made = cythonize(
            self.extensions,
            build_dir=os.path.join(os.environ.get("JESSY_MEM_C", "build"), "cython-lines" if names_lines else "cython"),
            emit_linenums=names_lines,
            compiler_directives={**DIRECTIVES, **directives},
            shared_utility_qualified_name=SHARED,
            annotate=bool(os.environ.get("JESSY_MEM_ANNOTATE")),
        )
        sources = {extension.name: extension.sources for extension in made}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
            extension.extra_compile_args = [*WARNINGS, *compile_flags]
            extension.extra_link_args = ["-pthread", *link_flags]
        super().run()


class Sdist(sdist):
    """Make the same bytes of the same files, whoever makes them and when; SOURCE_DATE_EPOCH is their time."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def settled(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        path = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with (
            open(path, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for member in [Path(base_dir), *sorted(Path(base_dir).rglob("*"))]:
                archive.add(member, recursive=False, filter=settled)
        return path


class BdistWheel(bdist_wheel):
    """Put a bill of materials into the wheel (PEP 770): what is compiled into it and is not ours."""

    def write_wheelfile(self, wheelfile_base, *args, **kwargs):
        from Cython import __version__ as cython

        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        version = self.distribution.get_version()
        own, its = f"pkg:pypi/jessy-mem@{version}", f"pkg:pypi/cython@{cython}"
        bill = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": component("jessy-mem", version, own, "MIT", "this wheel")},
            "components": [component("cython", cython, its, "Apache-2.0", "its code is part of each extension module")],
            "dependencies": [{"ref": own, "dependsOn": [its]}, {"ref": its}],
        }
        folder = Path(wheelfile_base, "sboms")
        folder.mkdir(exist_ok=True)
        (folder / "jessy_mem.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")


def component(name: str, version: str, purl: str, licence: str, description: str) -> dict[str, object]:
    licences = [{"license": {"id": licence}}]
    facts = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**facts, "licenses": licences, "description": description}


def extension(source: Path) -> Extension:
    return Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        depends=[str(path) for path in sorted(Path("jessy_mem/_core/c").glob("*.h"))],
        include_dirs=["jessy_mem/_core"],
    )


setup(
    ext_modules=[
        *[extension(source) for source in sorted(Path("jessy_mem").rglob("*.pyx"))],
        Extension(SHARED, [SHARED.replace(".", "/") + ".c"]),  # cythonize writes it
    ],
    cmdclass={"bdist_wheel": BdistWheel, "build_ext": BuildExt, "sdist": Sdist},
)
