"""Print "3.12 3.12.1 /path/to/python" for a CPython >= 3.11 that can make environments ("3.13t" if free-threaded)."""

import os
import sys
import sysconfig

if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
    sys.exit(1)
import ensurepip  # noqa: F401
import venv  # noqa: F401

tag = "{}.{}".format(*sys.version_info) + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
print(tag, "{}.{}.{}".format(*sys.version_info), os.path.realpath(sys._base_executable))
