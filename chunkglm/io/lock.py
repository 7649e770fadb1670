"""One writer at a time: a lock that the system lifts when its holder dies."""

import contextlib
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from chunkglm.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows: writers there are told apart by the file's presence alone
    fcntl = None  # type: ignore[assignment]

# What file systems without locks answer, such as Lustre mounted without them.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)

# A holder names itself right after it has taken the lock; whoever looks earlier looks again.
_NOTE_SECONDS = 1.0

# Of the 255 bytes that a name may have, what endings leave, and some.
_LONGEST_NAME = 200


@contextlib.contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Hold the right to write a store.

    Parameters
    ----------
    target : Path
        The store; its lock is a hidden file beside it, gone when the writer is done.

    Raises
    ------
    StoreError
        When another process is writing it, naming the process, its machine and since when.
    """
    path = hidden(target, "lock")
    descriptor, locked = _acquire(path, target)
    # Where the file system knows no locks, a second file is the lock, by being there.
    flag = contextlib.nullcontext() if locked else _only_flag(hidden(target, "held"), target)
    try:
        with flag:
            yield
    finally:
        # Removed while held: whoever waits for this file finds that it is no longer the lock.
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)


def hidden(target: Path, ending: str) -> Path:
    """Name a hidden sibling."""
    return target.with_name(f".{_stem(target)}.{ending}")


def hidden_glob(target: Path, ending: str) -> Iterable[Path]:
    """Find hidden siblings whose ending matches."""
    literal = "".join(f"[{c}]" if c in "*?[" else c for c in _stem(target))
    return target.parent.glob(f".{literal}.{ending}")


def _stem(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _acquire(path: Path, target: Path) -> tuple[int, bool]:
    while True:
        descriptor = _open(path, target)
        try:
            locked = _lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreError(_refusal(path, target)) from None
        if not locked or _still_there(descriptor, path):
            if locked:
                _sign(descriptor)
            return descriptor, locked
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    note = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(note).encode())


def _open(path: Path, target: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.EACCES and path.exists():
            raise StoreError(f"{_refusal(path, target)}; if it is gone, remove {path}") from error
        msg = f"{target}: cannot be written ({error.strerror}); choose another folder"
        raise StoreError(msg) from error


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where the file system cannot."""
    locked = False
    if fcntl is not None:
        try:
            # Bound to the open file, so a second thread of this process is refused as well, and a
            # holder that was killed holds nothing: what is left of it is only an empty claim.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return locked


@contextlib.contextmanager
def _only_flag(path: Path, target: Path) -> Iterator[None]:
    """Hold a file that only one can make; that of a holder that was killed stays."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise StoreError(f"{_refusal(path, target)}; if it is gone, remove {path}") from None
    try:
        _sign(descriptor)
        os.close(descriptor)
        yield
    finally:
        path.unlink(missing_ok=True)


def _still_there(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name: its last holder removed it if not."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _refusal(path: Path, target: Path) -> str:
    return f"{target}: is being written by {_holder(path)}; wait for it, or choose another name"


def _holder(path: Path) -> str:
    end = time.monotonic() + _NOTE_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found: Any = json.loads(path.read_text())
            return f"process {found['pid']} on {found['host']} since {found['since']}"
        if not path.exists():
            break
        time.sleep(0.02)
    return "another process"


def now() -> str:
    """The time of day, as messages tell it."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
