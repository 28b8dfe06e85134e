"""`save=`: each output under a name of the user's, once, and never in the place of another file."""

import os
from pathlib import Path
from typing import Any

import pytest

from collector import Batch, Collector
from collector.batch.names import Template
from tests.support.batchjobs import counts_its_calls, fails_if_bad, many_bytes, takes_its_name

pytestmark = pytest.mark.usefixtures("one_server")


def collect(
    inputs: Any, path: str | Path, save: Any, **options: Any
) -> dict[Any, tuple[bool, Any]]:
    with Collector(1, progress=False) as collector:
        jobs = collector.collect(fails_if_bad, inputs, batch=path, save=save, **options)
        return {job.args[0]: (job.resumed, job.exception()) for job in jobs}


def test_what_stands_behind_a_link_is_where_the_kernel_finds_it(
    tmp_path: Path, behind_a_link: str
) -> None:
    up = behind_a_link
    for resumed in (False, True):
        found = collect(["x", "below/../y"], os.path.join(up, "b"), os.path.join(up, "{input}.txt"))
        assert found == {"x": (resumed, None), "below/../y": (resumed, None)}
    assert sorted(os.listdir("real")) == ["b", "below", "x.txt", "y.txt"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    with Batch.open(os.path.join(up, "b")) as batch:
        assert [record.output().text() for record in batch] == ["x", "below/../y"]
        assert batch.verify() == []


@pytest.mark.usefixtures("behind_a_link")
def test_an_input_leads_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "real" / "below")
    assert Template("out/{input}").name("link/../x", key="", seq=0, name="") == "out/x"
    assert collect(["link/../x"], tmp_path / "b", "out/{input}") == {"link/../x": (False, None)}
    assert sorted(os.listdir("out")) == ["link", "x"]


def test_outputs_get_the_names_of_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = collect(["one.mp4", "two.mp4", "bad"], tmp_path / "b", "out/{input.stem}.txt")
    assert {name: error is None for name, (_, error) in found.items()} == {
        "one.mp4": True,
        "two.mp4": True,
        "bad": False,
    }
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        "one.txt": "one.mp4",
        "two.txt": "two.mp4",
    }
    again = collect(["one.mp4", "two.mp4"], tmp_path / "b", "out/{input.stem}.txt")
    assert all(resumed for resumed, _ in again.values())
    with Batch.open("b") as batch:
        records = {record.input: record for record in batch}
        assert records["one.mp4"].output().text() == "one.mp4"
        assert records["bad"].output().text() == "bad"
        assert batch.verify() == []


@pytest.mark.parametrize("damage", [os.unlink, lambda path: path.write_text("other")])
def test_a_saved_file_that_is_not_what_it_was_runs_again(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save = os.fspath(tmp_path / "out" / "{input}.txt")
    collect(["a", "b"], tmp_path / "b", save)
    damage(tmp_path / "out" / "a.txt")
    with Batch.open(tmp_path / "b") as batch:
        (problem,) = batch.verify()
        assert "a.txt" in problem
    (tmp_path / "out" / "a.txt").unlink(missing_ok=True)
    again = collect(["a", "b"], tmp_path / "b", save)
    assert again == {"a": (False, None), "b": (True, None)}
    assert "counts as not done" in caplog.text
    assert (tmp_path / "out" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("resume", ["failed", "all"])
def test_a_job_whose_output_cannot_get_its_name_is_not_run_and_paid_for(
    tmp_path: Path, resume: str
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "directory.txt").mkdir()
    (tmp_path / "b").mkdir()
    inputs = [os.fspath(tmp_path / name) for name in ("mine", "directory", "a", "b/a")]
    save = os.fspath(tmp_path / "{input.stem}.txt")
    found = []
    for _ in range(2):
        with Collector(1, progress=False, retries=2) as collector:
            jobs = collector.collect(
                counts_its_calls, inputs, batch=tmp_path / "B", save=save, resume=resume
            )
            kinds = {os.path.relpath(job.args[0], tmp_path): type(job.exception()) for job in jobs}
        found.append(kinds)
        (tmp_path / "mine.txt").unlink()
    wrong = {"directory": IsADirectoryError, "b/a": FileExistsError}
    nothing = type(None)
    assert found[0] == {"mine": FileExistsError, "a": nothing, **wrong}
    assert found[1] == {"mine": nothing, "a": nothing, **wrong}
    calls = {path.name: path.read_text() for path in tmp_path.glob("*.calls")}
    assert calls == {"a.calls": "xx" if resume == "all" else "x", "mine.calls": "x"}


def test_a_file_of_the_user_s_is_refused_and_stays(tmp_path: Path) -> None:
    """Also one that comes while the job runs."""
    text, save = os.fspath(tmp_path / "a"), os.fspath(tmp_path / "{input.stem}.txt")
    with Collector(1, progress=False) as collector:
        (job,) = collector.collect(takes_its_name, [text], batch=tmp_path / "b", save=save)
        error = job.exception()
    assert isinstance(error, FileExistsError)
    assert "a file of yours has that name: move it away" in str(error)
    assert (tmp_path / "a.txt").read_text() == "mine"
    with Batch.open(tmp_path / "b") as batch:
        (record,) = batch
        assert (record.status, record.output().text()) == ("failed", text)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.go").touch()
    with Collector(1, progress=False) as collector:
        (job,) = collector.collect(takes_its_name, [text], batch=tmp_path / "b", save=save)
        assert (job.resumed, job.exception()) == (False, None)
    assert (tmp_path / "a.txt").read_text() == text


def test_two_inputs_of_one_name_are_told_of_each_other(tmp_path: Path) -> None:
    save = os.fspath(tmp_path / "{input.stem}.txt")
    found = collect(["x/a.mp4", "y/a.mp4"], tmp_path / "b", save)
    assert found["x/a.mp4"][1] is None
    assert "the output of 'x/a.mp4' has that name already" in str(found["y/a.mp4"][1])
    later = collect(["x/a.mp4", "z/a.mp4"], tmp_path / "b", save)
    assert later["x/a.mp4"] == (True, None)
    assert "the output of 'x/a.mp4' has that name" in str(later["z/a.mp4"][1])
    assert (tmp_path / "a.txt").read_text() == "x/a.mp4"


def test_a_result_that_is_replaced_replaces_its_own_file(tmp_path: Path) -> None:
    save = os.fspath(tmp_path / "{input}.txt")
    for _ in range(2):
        assert collect(["a"], tmp_path / "b", save, resume="all")["a"] == (False, None)
    assert (tmp_path / "a.txt").read_text() == "a"


def test_a_function_may_say_the_names(tmp_path: Path) -> None:
    with Collector(1, progress=False) as collector:
        jobs = list(
            collector.collect(
                many_bytes,
                [70_000, 1],
                batch=tmp_path / "b",
                save=lambda size: tmp_path / f"{size}.bin" if size > 1 else missing(size),
            )
        )
    errors = {job.args[0]: job.exception() for job in jobs}
    assert errors[70_000] is None
    assert isinstance(errors[1], IndexError)
    assert (tmp_path / "70000.bin").read_bytes() == bytes(70_000)


def test_a_function_that_says_no_name_fails_its_job_with_a_line(tmp_path: Path) -> None:
    found = collect(["a"], tmp_path / "b", lambda _text: 3)
    assert str(found["a"][1]) == "the function save= must return a path, not 3"


@pytest.mark.parametrize("name", ["out/a\0b", "", b"out/", "out/..", ".", "out/\ud800"])
def test_a_name_that_no_file_can_have_fails_its_job_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    for resumed in (False, True):
        found = collect(["a", "b"], "b", lambda text: name if text == "a" else "out/b")
        assert found["b"] == (resumed, None)
        assert type(found["a"][1]) is ValueError
        assert "names no file" in str(found["a"][1])
    with Batch.open("b") as batch:
        assert batch.verify() == []
        assert [(r.status, len(r.attempts)) for r in batch] == [("failed", 2), ("done", 1)]


def test_a_relative_name_is_that_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for resumed in (False, True):
        monkeypatch.chdir(tmp_path)
        with Collector(1, progress=False) as collector:
            jobs = collector.collect(
                fails_if_bad, list("abc"), batch="b", save="out/{input}", buffersize=1
            )
            monkeypatch.chdir(tmp_path / "elsewhere")
            found = [(job.args[0], job.resumed, job.output().text()) for job in jobs]
        assert found == [(text, resumed, text) for text in "abc"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b", "c"]
    assert os.listdir() == []
    monkeypatch.chdir(tmp_path)
    with Batch.open("b") as batch:
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert batch.verify() == []
        assert [record.output().text() for record in batch] == ["a", "b", "c"]


def missing(size: int) -> Path:
    raise IndexError(size)


@pytest.mark.parametrize(
    ("template", "value", "name"),
    [
        ("out/{input.stem}.txt", "a/b.mp4", "out/b.txt"),
        ("out/{input.stem}.txt", Path("a/b.mp4"), "out/b.txt"),
        ("{input.parent}/{input.name}{input.suffix}", "a/b.c", "a/b.c.c"),
        ("out/{seq:03}-{name}-{key}", 7, "out/002-f-1-kk"),
        ("out/{input}", "/etc/passwd", "out/etc/passwd"),
        ("/x/{input[0]}", ("a", "b"), "/x/a"),
        ("{{}}{input}", "a", "{}a"),
    ],
)
def test_a_template_is_filled(template: str, value: Any, name: str) -> None:
    assert Template(template).name(value, key="kk", seq=2, name="f-1") == name


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("out/{input}", "../x"),
        ("out/{input}", "a/../../x"),
        ("out/{input}", ".."),
        ("{input}", "/etc/passwd"),
        ("{input}", "../x"),
        ("/x/{input}", "../y"),
        ("out/x{input}", "/../../y"),
        ("out/{input}", "a\0b"),
        ("out/{input}", ""),
        ("out/{input}", "\ud800"),
    ],
)
def test_no_input_leads_out_of_the_directory_of_the_template(template: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"leads out|names no file"):
        Template(template).name(value, key="k", seq=0, name="n")


@pytest.mark.parametrize("template", ["", "out/", "{", "{other}", "{}", "{0}", "out/{input.stem"])
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"no template|has a field|names no file"):
        Template(template)
