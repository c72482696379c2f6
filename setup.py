"""Extensions, compiler directives and build profiles; everything else is in pyproject.toml.

``JESSY_MEM_PROFILE`` chooses the profile: ``release`` (default), ``debug``, ``asan``, ``tsan`` or ``fuzz``.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"]
PROFILES = {  # name: (compile flags, link flags, Cython directives); debug checks invariants (assert.h) and bounds
    "release": (["-O3", "-g0", "-fvisibility=hidden"], ["-Wl,-s"] if sys.platform == "linux" else [], {}),
    "debug": (["-O1", "-g", "-UNDEBUG", "-DJM_CHECKED=1"], [], {"boundscheck": True, "initializedcheck": True}),
    "asan": (
        ["-O0", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        ["-fsanitize=address,undefined"],
        {},
    ),
    "tsan": (["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=thread"], ["-fsanitize=thread"], {}),
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
        from Cython.Build import cythonize

        profile = os.environ.get("JESSY_MEM_PROFILE", "release")
        if profile not in PROFILES:
            raise SystemExit(f"JESSY_MEM_PROFILE={profile!r}: expected one of {', '.join(PROFILES)}")
        compile_flags, link_flags, directives = PROFILES[profile]
        for extension in self.distribution.ext_modules:
            extension.extra_compile_args = [*WARNINGS, *compile_flags]
            extension.extra_link_args = ["-pthread", *link_flags]
        self.distribution.ext_modules[:] = cythonize(
            self.distribution.ext_modules,
            build_dir=f"build/cython-{profile}",
            emit_linenums=profile == "debug",  # what fails, and a debugger, names the line of the .pyx
            compiler_directives={**DIRECTIVES, **directives},
            shared_utility_qualified_name=SHARED,
            annotate=bool(os.environ.get("JESSY_MEM_ANNOTATE")),
        )
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()


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
    cmdclass={"build_ext": BuildExt},
)
