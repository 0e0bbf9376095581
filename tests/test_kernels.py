"""Machine code is of the sources that are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = """
import importlib, json, sys
from tradeengine.kernels import KERNEL_MODULES
for name in {name for names in KERNEL_MODULES.values() for name in names}:
    importlib.import_module(f"tradeengine.{name}")
ours = [module for name, module in sys.modules.items() if name.startswith("tradeengine.")]
print(json.dumps([module.__file__.partition("tradeengine/")[2] for module in ours]))
"""


def test_whatever_a_kernel_is_made_of_is_compiled_anew_when_it_changes() -> None:
    """``make install`` looks at every module that kernels are in, call, or take constants from.

    numba looks only at the file of the function that is called: with another matching rule in a file beside it the old
    one would go on, silently.
    """
    said = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    needed = {f"src/{name}" for name in json.loads(said.stdout) if not name.endswith("__init__.py")}
    makefile = subprocess.run(
        ["make", "--print-data-base", "--dry-run", "clean"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (listed,) = (line for line in makefile.stdout.splitlines() if line.startswith("KERNEL_SOURCES :="))
    assert len(needed) > 40
    assert needed - set(listed.split()[2:]) == set()
