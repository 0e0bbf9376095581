"""Where the kernels' machine code is once the program is installed: beside the sources, which nobody may write.

numba takes only a folder that it may write, and would compile everything anew into the user's cache: minutes during
which a service does not start. So the installed command names this class in ``NUMBA_CACHE_LOCATOR_CLASSES``.
Machine code that does not fit (another processor, other sources) is compiled and cannot be kept: numba ends with a
PermissionError then, and the program is to be installed anew.
"""

from __future__ import annotations

from pathlib import Path

from numba.core.caching import InTreeCacheLocator


class InstalledKernels(InTreeCacheLocator):
    """Finds machine code beside the sources, whether that may be written or not."""

    def ensure_cache_path(self) -> None:
        """See that the folder is there; whether it can be written shows when something is."""
        Path(self._cache_path).mkdir(exist_ok=True)
