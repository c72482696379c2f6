"""On a free-threaded build the GIL stays off, whatever of the package is imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from failing import COMPILER

import jessy_mem
from helpers import DISOWNS

pytestmark = pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded build")

IMPORT_ALL = """
import importlib, pkgutil, sys
import jessy_mem
for module in pkgutil.walk_packages(jessy_mem.__path__, "jessy_mem."):
    if module.name != "jessy_mem.__main__":
        importlib.import_module(module.name)
        assert not sys._is_gil_enabled(), f"{module.name} switched the GIL on"
"""


def test_gil_stays_off_when_everything_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_gil_is_off_in_the_tests():
    assert not sys._is_gil_enabled(), "a dependency of the tests switched the GIL on"


TRIAL = """
#include <Python.h>
#ifdef COUNTS_OTHERWISE /* as an interpreter might that keeps something else in this field */
#undef _Py_REF_SHARED
#define _Py_REF_SHARED(n, flags) ((((n) + 1) << _Py_REF_SHARED_SHIFT) + (flags))
#endif
#include "pycompat.h"

static PyObject *disowned(PyObject *module, PyObject *unused)
{
    PyObject *each = PyList_New(0);
    int is_disowned;
    if (each == NULL)
        return NULL;
    jm_disown(each);
    is_disowned = each->ob_tid == 0;
    Py_DECREF(each);
    return PyBool_FromLong(is_disowned);
}

static PyMethodDef methods[] = {{"disowned", disowned, METH_NOARGS, NULL}, {NULL}};
static PyModuleDef_Slot slots[] = {{Py_mod_gil, Py_MOD_GIL_NOT_USED}, {0}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "trial", NULL, 0, methods, slots};
PyMODINIT_FUNC PyInit_trial(void) { return PyModuleDef_Init(&definition); }
"""


@pytest.mark.skipif(not DISOWNS, reason="nothing is disowned on this version")
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("counts_otherwise", [False, True])
def test_nothing_is_disowned_where_an_object_of_ours_was_not_freed_as_it_must_be(counts_otherwise, tmp_path):
    source, made = tmp_path / "trial.c", tmp_path / "trial.so"
    source.write_text(TRIAL)
    folders = [sysconfig.get_path("include"), Path(jessy_mem.__file__).parent / "_core" / "c"]
    options = ["-shared", "-fPIC", "-pthread", *(f"-I{each}" for each in folders)]
    options += ["-DCOUNTS_OTHERWISE"] * counts_otherwise
    subprocess.run([COMPILER, *options, source, "-o", made], check=True)
    spec = importlib.util.spec_from_file_location("trial", made)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.disowned() is not counts_otherwise
