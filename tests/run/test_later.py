"""`collector run`: what a command asks for that ends with exit status 75, and what jobs share."""

import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from collector import Batch
from tests.support.running import QUIET, RUN, on_terminal, run
from tests.test_docs import DOCS, blocks

ONCE = "[ -e {}.seen ] || { : > {}.seen; echo half; exit 75; }; echo {} $COLLECTOR_ATTEMPT"


def test_exit_status_75_is_no_failure_and_uses_up_no_attempt(tmp_path: Path) -> None:
    line = ["--later", "0", "-k", "-o", "B", "--joblog", "log", ONCE, ":::", "a", "b"]
    ended = run(*line, where=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"a 1\nb 1\n", b"")
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    with Batch.open(tmp_path / "B") as batch:
        assert [len(record.attempts) for record in batch] == [1, 1]
        assert batch.verify() == []


def test_others_run_while_a_job_waits_to_be_run_again(tmp_path: Path) -> None:
    script = "case {} in a) [ -e b ] && [ -e c ] || exit 75;; esac; : > {}; echo {}"
    line = ["-j1", "--halt", "now,fail=1", "--later", "0.2", script, ":::", "a", "b", "c"]
    ended = run(*line, where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"b\nc\na\n")


@pytest.mark.parametrize("ordered", [[], ["-k"]])
def test_lines_are_those_of_the_whole_job_also_after_it_has_asked_to_be_run_later(
    ordered: list[str], tmp_path: Path
) -> None:
    script = (
        "[ ! -e go ] || { echo the second is longer; exit; }; echo {}; printf half; "
        "until [ -e go ]; do sleep 0.01; done; exit 75"
    )
    words = [*RUN, *QUIET, *ordered, "--line-buffer", "--later", "0", script, ":::", "first"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        (tmp_path / "go").touch()
        assert process.stdout.read() == b"the second is longer\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_a_function_asks_for_the_same_by_raising(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, collector\n"
        "def work(x):\n"
        "    if not os.path.exists(x):\n"
        "        open(x, 'w').close()\n"
        "        raise collector.RetryLater(0)\n"
        "    print(x, os.environ['COLLECTOR_ATTEMPT'])\n"
    )
    ended = run("--python", "mine:work", ":::", "a", where=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"a 1\n")


@pytest.mark.slow
@pytest.mark.parametrize("directory", [[], ["-o", "B"]], ids=["alone", "kept"])
def test_what_a_job_has_counted_that_waits_when_the_batch_stops_is_not_lost(
    directory: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "import collector\n"
        "def work(x):\n"
        "    collector.current_job().count(usd=2.5)\n"
        "    if x == 'a':\n"
        "        raise collector.RetryLater(9999)\n"
        "    raise ValueError('no')\n"
    )
    # With one job at a time, the second one begins when the first one waits.
    line = ["-j1", "--halt", "now,fail=1", "--events", "events", *directory]
    ended = run(*line, "--python", "mine:work", ":::", "a", "b", where=tmp_path)
    assert ended.returncode == 1, ended
    events = map(json.loads, (tmp_path / "events").read_text().splitlines())
    meters = {event["job"]: event["meters"] for event in events if event["event"] == "ended"}
    assert meters == {1: {"usd": 2.5}, 2: {"usd": 2.5}}
    if directory:
        with Batch.open(tmp_path / "B") as batch:
            assert {record.input: dict(record.meters) for record in batch} == {
                "a": {"usd": 2.5},
                "b": {"usd": 2.5},
            }


@pytest.mark.slow
def test_jobs_that_share_a_resource_run_so_many_at_a_time(tmp_path: Path) -> None:
    script = "mkdir lock || exit 1; sleep 0.02; rmdir lock; : {}"
    line = ["-j4", "--resource", "api=1", script, ":::", *"abcdefgh"]
    assert run(*line, where=tmp_path).returncode == 0


def test_when_one_has_asked_for_a_pause_one_job_of_its_resource_goes_first(tmp_path: Path) -> None:
    script = "echo {} >> ran; [ {} != a ] || [ -e seen ] || { : > seen; exit 75; }"
    line = ["-j1", "--resource", "api", "--later", "0.2", "--halt", "soon,fail=9", script]
    assert run(*line, ":::", "a", "b", "c", where=tmp_path).returncode == 0
    assert (tmp_path / "ran").read_text().split()[:2] == ["a", "a"]


def test_the_screen_says_what_a_batch_waits_for_and_control_c_ends_it(tmp_path: Path) -> None:
    words = "-j1 --resource api --later 1000 'exit 75; {}' ::: a b"
    line = f"stty rows 24 cols 100; $RUN {words}; echo status $?"
    with on_terminal(line, tmp_path) as shell:
        shell.read_until(b"for api")
        shell.press(b"\x03")
        shell.read_until(b"status 130")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--later", "soon"], b"is no time"),
        (["--resource", "=3"], b"names no resource"),
        (["--resource", "api=0"], b"from 1 on"),
        (["--halt", "now,same=2%"], b"same=N"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], says: bytes, tmp_path: Path) -> None:
    ended = run(*words, "true", ":::", "a", where=tmp_path, quiet=False)
    assert ended.returncode == 2
    assert says in ended.stderr


@pytest.mark.slow
def test_equal_failures_in_a_row_stop_the_batch_and_it_says_so(tmp_path: Path) -> None:
    line = ["-j1", "--halt", "soon,same=3", "exit {}", ":::", "1", "0", "2", "2", "2", "1"]
    ended = run(*line, where=tmp_path, quiet=False)
    assert ended.returncode == 4
    assert b"3 jobs in a row failed alike" in ended.stderr
    assert run(*QUIET, *line, where=tmp_path).stderr == b""
    one = run("--halt", "soon,same=1", "exit 2", ":::", "a", where=tmp_path, quiet=False)
    assert b"the batch stops: 1 job has failed: exit status 2" in one.stderr


def test_a_job_that_is_to_be_run_later_when_the_batch_stops_has_begun(tmp_path: Path) -> None:
    line = ["-j1", "--later", "9999", "--halt", "now,fail=1", "exit {}", ":::", "75", "1"]
    ended = run(*line, where=tmp_path, quiet=False)
    assert ended.returncode == 1
    assert b"exit 75: not run to its end: the batch was stopped" in ended.stderr


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses the first request for each page with the status that its name begins with."""

    asked: list[str]

    def do_GET(self) -> None:
        again = self.path in self.asked
        self.asked.append(self.path)
        status = 200 if again else int(self.path[1:4])
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"%s %d\n" % (self.path.encode(), status))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_line_for_curl_waits_where_the_service_asks_for_it(tmp_path: Path) -> None:
    (line,) = [
        body
        for body in blocks("sh", DOCS / "how-to" / "polite-batch.md")
        if body.startswith("collector run")
    ]
    Refusing.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            pages = ["/200-a", "/429-b", "/500-c"]
            (tmp_path / "urls.txt").write_text("".join(f"{address}{page}\n" for page in pages))
            typed = line.replace("--later 10", "--later 0").replace("collector run", '"$@"', 1)
            done = subprocess.run(
                ["/bin/sh", "-c", typed, "sh", *RUN, "-k"],
                cwd=tmp_path,
                env=os.environ | {"no_proxy": "127.0.0.1"},
                capture_output=True,
                check=False,
                timeout=120,
            )
        finally:
            server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"/200-a 200\n/429-b 200\n/500-c 200\n"
    with Batch.open(tmp_path / "pages") as batch:
        assert [len(record.attempts) for record in batch] == [1, 1, 2]
    assert sorted(Refusing.asked) == ["/200-a", *(2 * ["/429-b"]), *(2 * ["/500-c"])]
