"""The folder of one run of the cluster tests, and the removal of what killed runs left behind."""

import fcntl
import os
import pathlib
import secrets
import shutil
import tempfile

from harness import cgroups

# One for each user: it holds private keys.
PARENT = pathlib.Path(tempfile.gettempdir()) / f"tollgate-cluster-{os.getuid()}"


class RunFolder:
    """A new folder with a name of its own. A lock on it says that the run lives; the kernel drops that lock when the
    run ends, however it ends, and the kernel kills what the run had started. What then is left is files and cgroups."""

    def __init__(self):
        PARENT.mkdir(mode=0o700, exist_ok=True)
        status = PARENT.lstat()
        assert status.st_uid == os.getuid() and not PARENT.is_symlink(), f"{PARENT} belongs to somebody else"
        with open(PARENT / "lock", "w") as everybody:
            fcntl.flock(everybody, fcntl.LOCK_EX)
            for leftover in PARENT.iterdir():
                if leftover.is_dir() and not _is_alive(leftover):
                    _remove(leftover)
            # Short: it becomes part of the paths of sockets.
            self.name = f"tollgate-{secrets.token_hex(3)}"
            self.path = PARENT / self.name
            self.path.mkdir()
            self._alive = open(self.path / "lock", "w")
            fcntl.flock(self._alive, fcntl.LOCK_EX)

    def remove(self):
        """Once everything that the run started has ended."""
        _remove(self.path)
        self._alive.close()


def _is_alive(folder):
    try:
        lock = open(folder / "lock")
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove(folder):
    cgroups.remove(folder.name)
    shutil.rmtree(folder)
