"""Sweeping what lies in the image of a container: overlayfs does not rename a directory of it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.store.rundir import kernel
from collector.store.rundir.reclaim import list_runs, reclaim
from tests.support.rundirs import make_orphan, mode, mounted, names, unmounting


@contextlib.contextmanager
def container_of(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image as containers have it: what changes goes to a layer above it; needs root."""
    with mounted(place, "size=4m") as disk:
        for name in ("upper", "work", "root"):
            (disk / name).mkdir()
        options = f"lowerdir={image},upperdir={disk}/upper,workdir={disk}/work,redirect_dir=off"
        command = ["mount", "-t", "overlay", "-o", options, "overlay", f"{disk}/root"]
        if subprocess.run(command, check=False).returncode:
            pytest.skip("no overlayfs is to be had here")
        with unmounting(disk / "root"):
            yield disk / "root"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with what a process left that was killed while the image was built."""
    image = tmp_path / "image"
    image.mkdir()
    run = make_orphan(image / "root")
    deepest = run / "scratch-0123456789abcdef" / "a" / "b" / "c"
    deepest.mkdir(parents=True)
    (deepest / "file").write_bytes(b"deep")
    (deepest.parent / "closed").mkdir(mode=0)
    return image


class TestTheLayerOfAnImage:
    def test_a_dead_run_in_it_is_reclaimed(self, image: Path, tmp_path: Path) -> None:
        with container_of(image, tmp_path / "container") as container:
            root = container / "root"
            made_here = make_orphan(root)
            (made_here / "scratch-0123456789abcdef").mkdir()
            with pytest.raises(OSError, match="cross-device"):
                (root / names(image / "root")[0]).rename(root / "other")
            report = reclaim([root])
            assert report.failures == []
            assert (len(report.reclaimed), report.bytes) == (2, 24)
            assert names(root) == []
        assert len(names(image / "root")) == 1

    def test_a_sweep_that_was_killed_is_finished_by_the_next(
        self, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with container_of(image, tmp_path / "container") as container:
            root = container / "root"

            def killed(*_arguments: object, **_names: object) -> None:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(kernel, "rmdir", killed)
                with pytest.raises(KeyboardInterrupt):
                    reclaim([root])
            assert [run.state for run in list_runs([root])] == ["stale"]
            assert len(reclaim([root]).reclaimed) == 1
            assert names(root) == []

    def test_no_mount_in_it_is_entered(self, image: Path, tmp_path: Path) -> None:
        with container_of(image, tmp_path / "container") as container:
            root = container / "root"
            (inner,) = root.glob("run-*/scratch-*/a/b")
            with mounted(inner / "c", "size=1m") as other:
                (other / "precious").touch()
                other.chmod(0o500)
                first, *_ = reclaim([root]).failures
                assert os.fspath(first.filename).endswith("/c")
                assert (names(other), mode(other)) == (["precious"], 0o500)
            assert reclaim([root]).failures == []
            assert names(root) == []
