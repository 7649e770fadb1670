"""One writer at a time behind a URL, where nothing lifts a lock when its holder dies."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chunkglm.errors import StoreError
from chunkglm.io.files import file_system, reaching
from chunkglm.io.lock import now
from chunkglm.io.place import Place

# A holder says that it is alive every BEAT seconds; one that has not for STALE is looked at for two
# beats more, since clocks differ from machine to machine, and is taken for dead if it stays still.
BEAT = 10.0
STALE = 60.0

# Two that take over the same lock at once see within this time which of them wrote last.
_SETTLE = 1.0

_TRIES = 5


class Claim:
    """The right to write a store behind a URL: an object beside it that names the holder.

    It is made only if none is there, in one step where the storage offers that (S3's conditional
    put). Its limits: storage that ignores the condition leaves a moment, between looking and
    writing, in which two writers may both begin; a holder that is cut off for longer than `STALE`
    is taken for dead. Both find out: a holder looks at its object before it finishes, and gives up
    if it names another.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._url = place, str(place.beside(f".{place.name}.lock").url)
        self._note: dict[str, Any] = {
            "id": secrets.token_hex(8),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": now(),
            "machine": _machine(),
            "begun": False,
        }
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="chunkglm-claim", daemon=True)
        self._writing = threading.Lock()
        self.inherited = False  # whether what lies there was begun by a writer that died

    def take(self) -> None:
        """Take the lock, or refuse and name its holder.

        Raises
        ------
        StoreError
            When another writer holds it.
        """
        for _ in range(_TRIES):
            try:
                self._put(mode="create")
            except FileExistsError:
                found = self._read()
                if found is None:
                    continue  # given back meanwhile
                if not self._is_dead(found):
                    raise self._refused(found) from None
                self.inherited = found.get("begun") is True
                self._put()
                time.sleep(_SETTLE)
            found = self._read()
            if found is None or found.get("id") != self._note["id"]:
                raise self._refused(found or {})
            self._beating.start()
            return
        raise self._refused({})

    def begin(self) -> None:
        """Tell that what lies in the store's place from now on is this writer's own."""
        with self._writing:
            self._note["begun"] = True
            self._put()

    def lost(self) -> bool:
        """Whether another writer has taken over."""
        found = self._read()
        return found is None or found.get("id") != self._note["id"]

    def check(self) -> None:
        """Refuse to go on once another writer has taken over."""
        if self.lost():
            found = self._read() or {}
            msg = (
                f"{self._place.label}: {_holder(found)} took over while it was written, since this "
                f"process was not heard of for {STALE:g} s; wait for it, or choose another name"
            )
            raise StoreError(msg)

    def give_back(self) -> None:
        """Remove the lock, if it is still this writer's."""
        self._stopped.set()
        if self._beating.is_alive():
            self._beating.join()
        with contextlib.suppress(Exception):
            if not self.lost():
                found, inside = file_system(self._url, self._place.options)
                found.rm_file(inside)

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT):
            # A network that fails for a moment is no reason to stop; it is tried again.
            with contextlib.suppress(Exception), self._writing:
                if self.lost():
                    return
                self._put()

    def _put(self, **how: str) -> None:
        found, inside = file_system(self._url, self._place.options)
        note = json.dumps({**self._note, "seen": time.time()}).encode()
        try:
            found.pipe_file(inside, note, **how)
        except FileExistsError:
            raise
        except Exception as error:
            if how and "recondition" in str(error):  # what S3 calls it
                raise FileExistsError from error
            raise

    def _read(self) -> dict[str, Any] | None:
        found, inside = file_system(self._url, self._place.options)
        found.invalidate_cache()
        try:
            note = json.loads(found.cat_file(inside))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return note if isinstance(note, dict) else {}

    def _is_dead(self, found: dict[str, Any]) -> bool:
        pid = found.get("pid")
        here = found.get("machine") == self._note["machine"]
        if here and isinstance(pid, int) and not _runs(pid):
            return True
        # A number that runs may be another process's by now: a holder beats, that one does not.
        seen = found.get("seen")
        if isinstance(seen, float) and abs(time.time() - seen) < STALE:
            return False
        end = time.monotonic() + 2 * BEAT
        while time.monotonic() < end:
            time.sleep(BEAT / 10)
            if self._read() != found:
                return False
        return True

    def _refused(self, found: dict[str, Any]) -> StoreError:
        return StoreError(
            f"{self._place.label}: is being written by {_holder(found)}; wait for it, or choose "
            f"another name (if it is gone, remove {self._url})"
        )


@contextlib.contextmanager
def claimed(place: Place) -> Iterator[Claim]:
    """Hold the right to write a store behind a URL; see `Claim` for what it is worth.

    Raises
    ------
    StoreError
        When another process is writing it, naming the process, its machine and since when.
    """
    claim = Claim(place)
    with reaching(place.label, StoreError):
        claim.take()
    try:
        yield claim
    finally:
        claim.give_back()


def _holder(found: dict[str, Any]) -> str:
    if not {"pid", "host", "since"} <= set(found):
        return "another process"
    return f"process {found['pid']} on {found['host']} since {found['since']}"


def _machine() -> str:
    """Tell this machine, as far as process numbers mean the same, from any other."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _runs(pid: int) -> bool:
    if os.name != "posix":
        return True  # asking would end it
    with contextlib.suppress(PermissionError):  # there, and someone else's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
