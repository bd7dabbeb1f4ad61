"""Where this program keeps what it may lose: below the user's home, or, for a user without one, a temporary folder.

`docker run --user 12345` and system services have neither $HOME nor an entry in /etc/passwd.
"""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

from moleflow_fast.errors import UserError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$MOLEFLOW_CACHE`, else `~/.cache/moleflow_fast`."""
    named = os.environ.get("MOLEFLOW_CACHE")
    return Path(named) if named else home() / ".cache" / "moleflow_fast"


def home() -> Path:
    """The user's; a folder of theirs in the system's temporary one where they have none, which is said once."""
    try:
        return Path.home()
    except RuntimeError:
        return _temporary_home()


def give_home() -> None:
    """Have libraries that keep files in the home find one too, in a process of ours: else they make a folder `~`."""
    if "HOME" not in os.environ:
        os.environ["HOME"] = str(home())


@cache
def _temporary_home() -> Path:
    if not hasattr(os, "getuid"):
        raise UserError("this user has no home directory: set USERPROFILE")
    folder = Path(tempfile.gettempdir()) / f"moleflow_fast-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to somebody else")
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="moleflow_fast-"))
    logger.warning(
        "this user has no home directory: caches go to %s; set HOME, or MOLEFLOW_CACHE and --cache_dir, to keep them "
        "elsewhere",
        folder,
    )
    return folder
