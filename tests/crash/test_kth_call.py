"""Each system call of spill, seal, save and sweep fails in turn, once and from then on.

strace makes the k-th call fail that can fail so, for k = 1, 2, ... until a run meets no fault. What
is allowed: the bytes are exact, or one clear error says that it failed; then the same thing works
as soon as the fault is over, and the next sweep leaves nothing.
"""

import json
import mmap
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from collector.store.rundir.reclaim import reclaim
from tests.support.leaks import is_running, wait_until
from tests.support.rundirs import Other, a_process, make_orphan, names

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace (Debian: strace)"
)

PATHS: Final = ("spill", "write", "seal", "save by renaming", "save by copying", "sweep")

_MAKES: Final = ("openat", "mkdir", "mkdirat")
_NAMES: Final = ("link", "linkat", "rename", "renameat", "renameat2")
_REMOVES: Final = ("unlink", "unlinkat", "rmdir")
_ROOM: Final = (*_MAKES, *_NAMES, "write", "ftruncate", "fsync")
_ALL: Final = (
    *(*_ROOM, *_REMOVES, "read", "readv", "pread64", "getdents64", "lseek", "fchmod", "flock"),
    *("fcntl", "fstat", "newfstatat", "dup", "close", "fchmodat", "fdatasync", "statfs"),
)
# Which calls can fail so, after their pages of the manual. EINTR comes once: from then on would be
# for ever, since Python tries again.
FAULTS: Final = {
    "ENOSPC": _ROOM,
    "EDQUOT": _ROOM,
    "EIO": _ALL,
    "EMFILE": ("openat", "dup", "fcntl"),
    "EINTR": ("openat", "read", "readv", "write", "flock", "fsync", "ftruncate"),
}
CLEAR: Final = {"SpillError", "OutputLostError", "RunDirectoryError", "OSError", "PermissionError"}
"""Their subclasses that name an errno of their own included."""

# Everything is imported once. Each run is a fork, which talks by shared memory while it is traced:
# its own descriptors fail, too.
ZYGOTE = """
import ctypes, filelock, gc, hashlib, json, mmap, tempfile, threading, traceback
from collector import OutputLostError, SpillManager, reclaim as reclaim_all
root, target, flags = sys.argv[1:]
with open(flags, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
PIECES = [bytes([65 + number]) * 600 for number in range(6)]

def reach(step):
    while not shared[step]:
        time.sleep(0.0005)

def manager(pieces):
    made = SpillManager(1000, temp_root=root)
    for piece in pieces:
        made.write(piece)
    return made

class Spill:
    held = 1
    def __init__(self):
        self.manager, self.left = manager(PIECES[:self.held]), PIECES[self.held:]
    def act(self):
        while self.left:
            self.manager.write(self.left[0])
            del self.left[0]
    def check(self):
        self.act()
        with self.manager.finalize() as output:
            yield output.read() == b"".join(PIECES), "bytes"
            yield output.chunks == len(PIECES), "chunks"

class Write(Spill):
    held = 3

class Seal:
    def __init__(self):
        self.manager, self.output = manager(PIECES), None
    def act(self):
        self.output = self.manager.finalize()
    def check(self):
        try:
            output = self.output or self.manager.finalize()
        except OutputLostError:
            yield False, "lost"
            return
        yield output.read() == b"".join(PIECES), "bytes"
        output.close()

class SaveByRenaming(Seal):
    held = PIECES
    def __init__(self):
        self.output, self.saved = manager(self.held).finalize(), False
    def act(self):
        self.output.save(target)
        self.saved = True
    def check(self):
        yield self.output.read() == b"".join(self.held), "bytes"
        yield self.saved == os.path.exists(target), "a name without a save, or a save without one"
        self.output.save(target, overwrite=self.saved)
        with open(target, "rb") as file:
            yield file.read() == b"".join(self.held), "bytes of the file"
        yield self.output.read() == b"".join(self.held), "bytes once saved"

class SaveByCopying(SaveByRenaming):
    held = PIECES[:1]

class Sweep:
    def __init__(self):
        self.live = RunDirectory.create(root)
    def act(self):
        reclaim_all([root])
    def check(self):
        yield self.live.is_in_place(), "a live run is gone"
        yield reclaim_all([root]).failures == [], "failures"
        yield os.listdir(root) == [self.live.path.name], "left"
        self.live.dispose()

CASES = {"spill": Spill, "write": Write, "seal": Seal, "save by renaming": SaveByRenaming,
         "save by copying": SaveByCopying, "sweep": Sweep}

def run(case):
    begun = len(os.listdir("/proc/self/fd"))
    subject, error, lines = CASES[case](), None, ""
    shared[3] = 1
    reach(0)
    try:
        subject.act()
    except Exception as caught:
        error, lines = caught, traceback.format_exc()
    shared[1] = 1
    reach(2)
    kinds = [kind.__name__ for kind in type(error).__mro__] if error else []
    number = getattr(error, "errno", None)
    error = None
    try:
        wrong = [what for holds, what in subject.check() if not holds]
    except Exception:
        wrong = [traceback.format_exc()]
    del subject
    gc.collect()
    cleanup.clean_up()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join()  # the sweep at start-up
    more = len(os.listdir("/proc/self/fd")) - begun
    say(json.dumps({"kinds": kinds, "errno": number, "wrong": wrong, "more": more, "lines": lines}))
    os._exit(0)

while case := wait().strip():
    gc.collect()
    child = os.fork()
    if child == 0:
        run(case)
    say(child)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the runs happen."""

    root: Path
    target: Path
    flags: mmap.mmap
    log: Path
    zygote: Other

    def run(self, case: str, inject: str) -> tuple[dict[str, Any] | None, Counter[str]]:
        """Let one run meet a fault; what it says (nothing if it was killed), and what failed."""
        self.flags[:] = bytes(len(self.flags))
        self.target.unlink(missing_ok=True)
        for part in self.target.parent.glob("*.part"):
            part.unlink()
        if case == "sweep":
            run = make_orphan(self.root, files=2)
            (run / "scratch-0123456789abcdef" / "deep").mkdir(parents=True)
        self.zygote.tell(case)
        pid = int(self.zygote.hear())
        assert wait_until(lambda: self.flags[3] or not is_running(pid), 60)
        command = ["strace", "-p", str(pid), "-o", str(self.log), "-e", inject]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            try:
                assert strace.stderr is not None
                assert "attached" in strace.stderr.readline()
                self.flags[0] = 1
                assert wait_until(lambda: self.flags[1] or not is_running(pid), 60)
            finally:
                strace.terminate()
        self.flags[2] = 1
        said = self.zygote.hear()
        if not said.startswith("{"):
            assert said == "-9", said
            return None, self._failed()
        assert self.zygote.hear() == "0"
        return json.loads(said), self._failed()

    def _failed(self) -> Counter[str]:
        lines = self.log.read_text(errors="replace").splitlines()
        return Counter(line.split("(")[0] for line in lines if "(INJECTED)" in line)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with _bench(tmp_path) as made:
        yield made


@contextmanager
def _bench(tmp_path: Path) -> Iterator[Bench]:
    root, saved, flags = tmp_path / "root", tmp_path / "saved", tmp_path / "flags"
    root.mkdir(mode=0o700)
    saved.mkdir()
    flags.write_bytes(bytes(4))
    with open(flags, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        target = saved / "target"
        with a_process(ZYGOTE, root, target, flags) as zygote:
            yield Bench(root, target, shared, tmp_path / "log", zygote)


def meet_every_fault(bench: Bench, case: str, fault: str, *, lasting: bool) -> int:
    """Let one call after the other fail; how many did."""
    return sum(_meet(bench, case, fault, call, lasting=lasting) for call in FAULTS[fault])


def _meet(bench: Bench, case: str, fault: str, call: str, *, lasting: bool) -> int:
    k = 0
    while True:
        k += 1
        when = f"{k}+" if lasting else f"{k}"
        said, failed = bench.run(case, f"inject=?{call}:error={fault}:when={when}")
        assert said is not None
        where = (case, fault, call, when, failed, said)
        lost = case == "seal" and call == "close" and "SpillError" in said["kinds"]
        assert said["wrong"] == ["lost"] * lost, where  # by a close that fails, as told
        assert not said["kinds"] or set(said["kinds"]) & CLEAR, where
        assert not said["kinds"] or said["errno"], where
        assert said["more"] <= failed["close"], (
            where
        )  # a close that strace lets fail closes nothing
        assert reclaim([bench.root]).failures == [], where
        assert names(bench.root) == [], where
        if not failed:
            assert said["kinds"] == [], where
            return k - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "lasting"),
    [(case, bool(number % 2)) for number, case in enumerate(PATHS[:-1])],
    ids=lambda value: {False: "once", True: "from then on"}.get(value, value),
)  # a sweep has more calls than all the others
def test_any_call_may_fail(bench: Bench, case: str, lasting: bool) -> None:
    assert meet_every_fault(bench, case, "EIO", lasting=lasting) >= 2


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", PATHS)
def test_any_call_may_fail_in_any_way(bench: Bench, case: str) -> None:
    met = {
        (fault, lasting): meet_every_fault(bench, case, fault, lasting=lasting)
        for fault in FAULTS
        for lasting in ((False,) if fault == "EINTR" else (False, True))
    }
    assert sum(met.values()) >= 6, met


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", PATHS)
def test_it_may_be_killed_at_any_call(bench: Bench, case: str) -> None:
    assert sum(killed_at(bench, case, call) for call in _ALL) >= 3


def killed_at(bench: Bench, case: str, call: str) -> int:
    """Kill a run at one such call after the other; how often it was there."""
    pieces = [bytes([65 + number]) * 600 for number in range(6)]
    whole = {b"".join(pieces), pieces[0]}
    k = 0
    while True:
        k += 1
        said, _ = bench.run(case, f"inject=?{call}:signal=KILL:when={k}")
        if bench.target.exists():
            assert bench.target.read_bytes() in whole, (case, call, k)
        assert reclaim([bench.root]).failures == [], (case, call, k)
        assert names(bench.root) == [], (case, call, k)
        if said is not None:
            return k - 1
