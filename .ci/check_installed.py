"""The installed package, alone in its environment: what an import costs, and that all files it needs came along."""

import sys
from pathlib import Path

import jessy_mem

costly = {"rich", "click", "numpy"} & sys.modules.keys()
if costly:
    sys.exit(f"import jessy_mem imports {', '.join(sorted(costly))}")

package = Path(jessy_mem.__file__).parent
if "site-packages" not in package.parts:
    sys.exit(f"{package} is not the installed package")
for name in ("py.typed", "__init__.pxd", "_core/c/atomic.h", "_core/registry.pxd", "data/dimensions.json"):
    if not (package / name).is_file():
        sys.exit(f"{name} is not installed")

from jessy_mem.layout import default_layout  # noqa: E402

print(f"{package}: {len(default_layout().dimensions)} dimensions planned")
