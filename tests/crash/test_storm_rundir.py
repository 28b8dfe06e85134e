"""A storm: makers, readers and sweepers of run directories, one of them killed every few ms.

No live run may ever be lost, and after the last sweep nothing may be left. The controls take a part
of the protocol out and must fail: they show that the storm can find what it looks for.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.rundirs import a_process, names

# The storm runs in one process that forks all others, so that a death costs two milliseconds and
# not the hundred of a new interpreter. A line in `log` is one violation (O_APPEND: whole lines).
STORM = """
import errno, json, random
import filelock
from collector.errors import RunDirectoryError
from collector.store.rundir import locks

root, log, seconds, enough, control = sys.argv[1:]
seconds, enough = float(seconds), int(enough)
CONTENT = b'x' * 5000

def widen(name, matching):
    real = getattr(kernel, name)
    def hooked(*args, **kwargs):
        result = real(*args, **kwargs)
        if matching in str(args[0]):
            time.sleep(0.003)
        return result
    setattr(kernel, name, hooked)

if control in ('no locks', 'no look at the inode'):
    locks.Lease.take_file_lock = lambda self: True
if control == 'no locks':
    locks.share = lambda fd: True
if control == 'no look at the inode':
    locks.leads_to = rundir.leads_to = lambda *args, **kwargs: True
wide = control in ('no look at the inode', 'widened')

def violation(*words):
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(fd, (json.dumps(words) + chr(10)).encode())
    os.close(fd)

def lives(run, name, who):
    if not run.is_in_place():
        violation(who, 'is not in place', str(run.path))
        return False
    return True

def make():
    if wide:  # so wide that a maker may lose very often in a row, which is no violation
        rundir.RUN_NAME_TRIES = 1_000_000
        widen('mkdir', 'run-')
        widen('open_fd', 'run-')
    while True:
        run = RunDirectory.create(root)
        alive = lives(run, None, 'new run')
        if alive:
            fd, name = run.create_file('out')
            os.write(fd, CONTENT)
            os.close(fd)
            scratch = make_scratch(run.path)
            (scratch / 'file').touch()
            for _ in range(random.randrange(5)):
                time.sleep(0.001)
                if not lives(run, name, 'maker'):
                    break
                fd = run.open_file(name)
                if os.read(fd, 9999) != CONTENT:
                    violation('maker', 'short file', name)
                os.close(fd)
        run.dispose()

def read():
    while True:
        for name in os.listdir(root):
            if not name.startswith('run-'):
                continue
            try:
                run = RunDirectory.join(os.path.join(root, name))
            except RunDirectoryError:
                continue
            for _ in range(random.randrange(5)):
                if not lives(run, name, 'reader'):
                    break
                time.sleep(0.001)
            run.dispose()
        time.sleep(0.001)

def sweep_all():
    while True:
        report = reclaim.reclaim([root])
        if report.failures:
            violation('sweeper', *map(str, report.failures))

def look():
    while True:
        for run in reclaim.list_runs([root]):
            assert run.state in ('live', 'stale')
        time.sleep(0.002)

def start(role):
    pid = os.fork()
    if pid == 0:
        try:
            random.seed()
            os.nice(10)  # or the killer would seldom have a turn
            role()
        except BaseException as error:
            violation(role.__name__, repr(error))
        finally:
            os._exit(1)
    return pid

os.mkdir(root, 0o700)
roles = {start(role): role for role in [make] * 4 + [read] * 2 + [sweep_all] * 3 + [look]}
kills = 0
end = time.monotonic() + seconds
def goes_on():  # long enough, and on a busy machine for long enough to tell anything
    return time.monotonic() < end or kills <= 20

while goes_on() and (not enough or os.path.getsize(log) < enough):
    time.sleep(0.004)
    victim = random.choice(list(roles))
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    role = roles.pop(victim)
    roles[start(role)] = role
    kills += 1
for pid in roles:
    os.kill(pid, signal.SIGKILL)
for pid in roles:
    os.waitpid(pid, 0)
last = reclaim.reclaim([root])
say(json.dumps({
    'kills': kills, 'reclaimed': len(last.reclaimed), 'failures': len(last.failures),
    'left': os.listdir(root), 'violations': open(log).read().splitlines(),
}))
"""


def storm(tmp_path: Path, seconds: float, *, control: str = "", enough: int = 0) -> dict[str, Any]:
    """Let it rage for some seconds and twenty kills, or until `enough` violations were logged."""
    log = tmp_path / "violations"
    log.touch()
    root = tmp_path / "root"
    with a_process(STORM, root, log, str(seconds), str(enough), control) as other:
        said = other.hear()
        assert said, other.process.stderr.read() if other.process.stderr is not None else ""
        assert other.end() == 0
    outcome: dict[str, Any] = json.loads(said)
    assert names(root) == outcome["left"]
    return outcome


@pytest.mark.parametrize("control", ["", "widened"])
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5, marks=pytest.mark.slow),
        pytest.param(300, marks=[pytest.mark.campaign, pytest.mark.timeout(1200)]),
    ],
)
def test_no_live_run_is_lost_and_nothing_is_left(
    tmp_path: Path, seconds: float, control: str
) -> None:
    outcome = storm(tmp_path, seconds, control=control)
    assert outcome["violations"] == []
    assert outcome["left"] == []
    assert outcome["failures"] == 0
    assert outcome["kills"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("control", ["no locks", "no look at the inode"])
def test_the_storm_finds_what_is_missing(tmp_path: Path, control: str) -> None:
    outcome = storm(tmp_path, 120, control=control, enough=1)
    lost = ("is not in place", "FileNotFoundError")
    assert any(word in violation for word in lost for violation in outcome["violations"])
