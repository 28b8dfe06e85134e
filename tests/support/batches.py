"""Scripts for a terminal: `python batches.py SCENARIO DIRECTORY`; each runs one batch.

Whoever runs one lets it go on by making files in the directory, and sees by files how far it is.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from collector import Collector

JOBS: Final = 12
WORDS: Final = 7
MIB: Final = 1024 * 1024


def wait_for(path: Path) -> None:
    """Wait until somebody has made that file."""
    while not path.exists():
        time.sleep(0.01)


def words(number: int) -> list[str]:
    """What a talkative job says; each a line."""
    return [f"<{number}.{word} {'w' * (number % 8)}>" for word in range(WORDS)]


def talk(number: int) -> Iterator[bytes]:
    """Say each word in another way; the output of every third job is spilled."""
    ways: list[Callable[[str], object]] = [
        print,
        lambda word: print(word, file=sys.stderr),
        lambda word: os.write(1, f"{word}\n".encode()),
        lambda word: subprocess.run(["echo", word], check=True),
        lambda word: os.write(2, f"{word}\n".encode()),
        lambda word: subprocess.run(["sh", "-c", f"echo '{word}' >&2"], check=True),
        lambda word: logging.getLogger("job").warning(word.strip("<>")),
    ]
    for way, word in zip(ways, words(number), strict=True):
        yield b"x" * (MIB if number % 3 == 0 else 1000)
        way(word)
        time.sleep(0.05)


def talk_to_the_end(_: Path) -> None:
    """Everybody talks: jobs, what they start, the parent, and its log."""
    logging.basicConfig(format="<%(message)s>")
    with Collector(max_workers=3) as collector:
        for job in collector.collect(talk, range(JOBS), desc="talk"):
            print(f"<{job.name} over>")
            logging.getLogger("own").warning("%s logged", job.name)
    print("<the end>")


def silent(number: int) -> Iterator[bytes]:
    """Write a little."""
    yield b"x" * number


def be_silent(_: Path) -> None:
    """A batch of which nothing is to be seen where there is no terminal."""
    with Collector(max_workers=2) as collector:
        for job in collector.collect(silent, range(20)):
            job.result()
    print("tqdm" in sys.modules, [t.name for t in threading.enumerate()])


def fail(number: int) -> Iterator[bytes]:
    """Fail in various ways, or not."""
    yield b"x" * 1000
    if number == 2:
        raise ValueError("two")
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)


def fail_now_and_then(_: Path) -> None:
    """One job raises, one is killed."""
    with Collector(max_workers=2) as collector:
        for _job in collector.collect(fail, range(JOBS), desc="some"):
            pass
    print("<the end>")


def fail_outside(directory: Path) -> None:
    """The loop itself fails, while other jobs run."""
    with Collector(max_workers=2) as collector:
        for _job in collector.collect(hold_some, [directory] * JOBS, desc="loop"):
            raise RuntimeError("the loop failed")


def hold(directory: Path) -> Iterator[bytes]:
    """Say so, then wait to be let go."""
    yield b"x" * 1000
    if not (directory / "quiet").exists():
        print(f"<held {os.getpid()}>")
    wait_for(directory / "go")


def hold_some(directory: Path) -> Iterator[bytes]:
    """The first goes at once, the others wait for ever."""
    yield b"x"
    try:
        (directory / "first").touch(exist_ok=False)
    except FileExistsError:
        wait_for(directory / "never")


def hold_all(directory: Path) -> None:
    """Jobs that wait to be let go; then the script itself does."""
    with Collector(max_workers=3) as collector:
        for job in collector.collect(hold, [directory] * 6, desc="hold"):
            job.output().close()
    (directory / "done").touch()
    wait_for(directory / "leave")
    print("<the end>")


def die_with_the_lock(_: int) -> None:
    """Die with the lock of everybody's bars."""
    from tqdm import tqdm

    tqdm.get_lock().acquire()  # type: ignore[no-untyped-call]
    os.kill(os.getpid(), signal.SIGKILL)


def share_a_lock(_: Path) -> None:
    """The user has bars of his own, whose lock a forked worker takes with it."""
    from tqdm import tqdm

    tqdm.get_lock()  # type: ignore[no-untyped-call]
    with Collector(max_workers=1, mp_context="fork") as collector:
        jobs = list(collector.collect(die_with_the_lock, range(1), desc="lock"))
        jobs += list(collector.collect(silent, range(4), desc="after"))
    print("<the end>")


def load_tqdm(_: int) -> None:
    """Load what draws the bars, as many libraries do."""
    import tqdm

    assert tqdm.__name__ == "tqdm"


def load_tqdm_in_forks(_: Path) -> None:
    """Jobs in forks of a process that is about to draw its first bar."""
    with Collector(max_workers=2, mp_context="fork", timeout=30) as collector:
        jobs = list(collector.collect(load_tqdm, range(4), desc="load"))
    print(*[job.exception() for job in jobs])


def beside_a_bar_of_the_user(_: Path) -> None:
    """The user's own bar and ours at the same time."""
    from tqdm import tqdm

    with Collector(max_workers=2) as collector:
        for _job in tqdm(collector.collect(talk_less, range(JOBS), desc="ours"), total=JOBS):
            pass
    print("<the end>")


def talk_less(number: int) -> Iterator[bytes]:
    """Take a little time."""
    yield b"x" * number
    time.sleep(0.1)


def leave_tqdm_alone(_: Path) -> None:
    """Tell what is left of our bar in what all bars share."""
    with Collector(max_workers=2) as collector:
        list(collector.collect(talk_less, range(4), desc="alone"))
    from tqdm.std import tqdm

    print(f"<{'_lock' in vars(tqdm)} {len(vars(tqdm)['_instances'])} {tqdm.monitor}>")


def silence_stderr(directory: Path) -> None:
    """Send what goes to stderr nowhere, from the third job on; up to the ninth or for good."""
    kept = os.dup(2)
    with Collector(max_workers=2) as collector:
        for number, _job in enumerate(collector.collect(talk_less, range(JOBS), desc="on"), 1):
            if number == 3:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
            if number == 9 and not (directory / "for good").exists():
                os.dup2(kept, 2)
    print("<the end>")


def odd_names(_: Path) -> None:
    """Names that would move the cursor."""
    with Collector(max_workers=2) as collector:
        odd = collector.with_options(name="\x1b[2J\x1b[H\nodd\x07")
        list(odd.collect(talk_less, range(4), desc="\x1b[5m\r\nname"))
    print("<the end>")


def long_names(directory: Path) -> None:
    """Names that are far wider than the screen."""
    with Collector(max_workers=2) as collector:
        long = collector.with_options(name="long" * 10_000 + "語" * 10_000)
        list(long.collect(hold, [directory] * 8, desc="names"))
    print("<the end>")


def everything(_: Path) -> None:
    """A bar for submit and map too, and where there is no terminal."""
    with Collector(max_workers=2, progress=True) as collector:
        jobs = [collector.submit(talk_less, number) for number in range(4)]
        assert [job.exception() for job in jobs] == [None] * 4
        assert list(collector.map(abs, range(4))) == list(range(4))


def nothing(_: Path) -> None:
    """No bar even on a terminal."""
    with Collector(max_workers=2, progress=False) as collector:
        list(collector.collect(talk_less, range(4)))
    print("<the end>")


def log_often(_: Path) -> None:
    """A line in the log every hundredth of a second."""
    from collector import settings

    settings.LOG_INTERVAL_S = 0.01  # type: ignore[misc]
    logging.basicConfig(level=logging.INFO)
    with Collector(max_workers=2) as collector:
        list(collector.collect(talk_less, range(4), desc="logged"))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
