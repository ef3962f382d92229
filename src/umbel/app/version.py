"""Say which umbel this is."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["SERIES", "VERSION", "VERSION_BANNER", "Version", "__version__", "version_info"]


class Version(NamedTuple):
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str = ""
    serial: str = ""


VERSION: Final = Version(0, 1, 0)
version_info: Final = VERSION
SERIES: Final = "first light"
__version__: Final = ".".join(map(str, VERSION[:3]))
VERSION_BANNER: Final = f"{__version__} ({SERIES})"
