"""Where DVC notes which files it has hashed: in a folder that nobody but its owner can enter.

The notes are pickles, and decide what counts as unchanged. By default DVC keeps those of all users of a machine in
/var/tmp/dvc, in folders that each of them may write.
"""

import os
import stat
from pathlib import Path

from tasks.errors import StageError

ENVIRONMENT = "DVC_SITE_CACHE_DIR"
"""DVC's own variable; whoever sets it, or core.site_cache_dir in DVC's settings, answers for that folder."""


def find_site_cache(root: Path) -> Path:
    """The folder for the project at `root`: the configured folder, else this user's below .dvc/tmp, made if need be.

    Raises
    ------
    StageError
        The folder below .dvc/tmp is another user's, or open to others.
    OSError
        It cannot be made.
    """
    from dvc.config import Config  # imported here since it takes .3 s, and most commands run no DVC

    configured = os.environ.get(ENVIRONMENT) or Config(str(root / ".dvc"))["core"].get("site_cache_dir")
    if configured:
        return Path(configured)
    folder = root / ".dvc" / "tmp" / f"site-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError:
        raise StageError(
            f"{folder} cannot be made: DVC keeps there what it knows of files, for each user. Whoever runs the pipeline, or asks what is "
            "out of date, must be able to write into the project"
        ) from None
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StageError(
            f"{folder}: expected a folder that only you can enter, since DVC runs what it finds there (pickles). Remove "
            f"it, and it is made anew; or set {ENVIRONMENT} to a folder of yours"
        )
    return folder
