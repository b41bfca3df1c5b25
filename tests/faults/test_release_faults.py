"""No death, rival or full disk shows to a reader of releases."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from release_project import (
    DEFAULT,
    OPEN,
    A,
    B,
    C,
    release,
    write_run,
)
from stage_processes import start

from flows.releases.create import create_release
from flows.releases.lineage import read_log
from flows.releases.lock import lock_releases
from flows.releases.store import (
    find_release,
    list_releases,
    point_current,
    read_labels,
    read_release,
    verify_all,
    verify_release,
)
from tasks.errors import EpoxyError, StageError

# Death, rivals, full disks


def release_both(root: str) -> None:
    """Release what data/ holds, or another run's, over and over."""
    for number in range(1000):
        write_run(Path(root), (A, B, C)[number % 3])
        create_release(Path(root), OPEN)


def release_quietly(root: str) -> None:
    with contextlib.suppress(EpoxyError):
        create_release(Path(root), OPEN)


def die_at(root: str, step: int, done: str) -> None:
    """Release, and die of SIGKILL right before the step-th thing done to the file system below releases/."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        changes = event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod"}
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if ((changes or writes) and "releases" in str(arguments[0])) or event == "os.truncate":
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    create_release(Path(root), OPEN)
    Path(done).touch()


def require_whole(root: Path, allowed: set[str]) -> None:
    """What a reader sees is one whole release of those allowed, and so is all else that is visible."""
    labels = read_labels(read_release(root))
    assert labels.height == 4
    assert verify_release(root, "current").id in allowed
    assert verify_all(root) == ()


def test_killed_before_every_single_step_of_a_release(root, tmp_path):
    first = release(root, A)
    write_run(root, B)
    second = release(root)
    steps = 0
    outcomes = set()
    for step in range(1, 200):
        roll_back_quietly(root, first, second)
        done = tmp_path / f"done-{step}"
        process = start(die_at, str(root), step, str(done))
        process.join(60)
        require_whole(root, {first, second})
        outcomes.add(find_release(root, "current"))
        if done.exists():
            break
        assert process.exitcode == -signal.SIGKILL
        steps += 1
        # The next run recovers by itself.
        assert create_release(root, OPEN).id == second
        require_whole(root, {second})
        assert not list((root / "releases").glob(".*.part"))
    assert steps > 10 and outcomes == {first, second}


def roll_back_quietly(root: Path, first: str, second: str) -> None:
    """As before the second release was first made: its folder is gone, and nobody ever went back from it."""
    folder = root / "releases"
    point_current(folder, first)
    for path in (folder / second).glob("*"):
        path.unlink()
    with contextlib.suppress(FileNotFoundError):
        (folder / second).rmdir()
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text(lines[0])


def test_killed_at_random_moments(root):
    ids = {release(root, run) for run in (A, B, C)}
    watching, seen = threading.Event(), []
    reader = threading.Thread(target=read_on, args=(root, ids, watching, seen))
    reader.start()
    chosen = random.Random(0)
    try:
        for _ in range(int(os.environ.get("EPOXY_KILLS", "30"))):
            process = start(release_both, str(root))
            time.sleep(chosen.uniform(0.02, 0.35))
            process.kill()
            process.join()
            require_whole(root, ids)
    finally:
        watching.set()
        reader.join()
    assert [one for one in seen if isinstance(one, Exception)] == [] and len(seen) > 100
    write_run(root, A)
    create_release(root, OPEN)
    require_whole(root, ids)
    assert not list((root / "releases").glob(".*.part"))


def read_on(root: Path, ids: set[str], ended: threading.Event, seen: list[Any]) -> None:
    """Read as a consumer does, resolving `current` once, until told to end; note what went wrong."""
    while not ended.is_set():
        try:
            folder = (root / "releases/current").resolve(strict=True)
            assert folder.name in ids
            manifest = json.loads((folder / "manifest.json").read_text())
            labels = (folder / "labels.parquet").read_bytes()
            assert hashlib.sha256(labels).hexdigest() == manifest["files"]["labels.parquet"]["sha256"]
            seen.append(folder.name)
        except Exception as error:
            seen.append(error)
        time.sleep(0.002)


def test_two_at_once_take_turns(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    processes = [start(release_quietly, str(root)) for _ in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(list_releases(root)) == 1 and verify_all(root) == ()
    records = read_log(root / "releases/log.jsonl").records
    assert [one.sequence for one in records] == [1, 2, 3, 4]


def hold(root: str, ready: str) -> None:
    with lock_releases(Path(root)):
        Path(ready).touch()
        time.sleep(60)


def test_who_holds_the_lock_is_told_and_dies_with_it(root, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.releases.lock.LOCK_SECONDS", 0.2)
    process = start(hold, str(root), str(tmp_path / "ready"))
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(StageError, match=rf"in use by process {process.pid} on "):
        create_release(root, DEFAULT)
    assert list_releases(root) == ()
    process.kill()
    process.join()
    assert create_release(root, DEFAULT).is_new


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_release_and_room_heals_it(root, small_disk):
    first = release(root)
    subprocess.run(["cp", "-a", f"{root}/releases/.", str(small_disk)], check=True)
    (root / "releases").rename(root / "elsewhere")
    (root / "releases").mkdir()
    subprocess.run(["mount", "--move", str(small_disk), str(root / "releases")], capture_output=True)
    if not (root / "releases/current").exists():
        subprocess.run(["mount", "--bind", str(small_disk), str(root / "releases")], check=True)
    try:
        write_run(root, B)
        filler = root / "releases/filler"
        failures = 0
        for free in range(0, 80, 4):
            fill(filler, free * 1024)
            try:
                create_release(root, OPEN)
                break
            except StageError as error:
                assert "No space left" in str(error)
                failures += 1
                filler.unlink()
                require_whole(root, {first})
                assert not list((root / "releases").glob(".*.part"))
        assert failures > 3
        assert find_release(root, "current") != first
        filler.unlink(missing_ok=True)
        require_whole(root, {find_release(root, "current")})
    finally:
        subprocess.run(["umount", str(root / "releases")], check=True)
        if not os.path.ismount(small_disk):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(small_disk)], check=True)


def fill(path: Path, leave: int) -> None:
    """Fill the disk at `path` up to `leave` bytes."""
    disk = os.statvfs(path.parent)
    path.write_bytes(b"x" * max(disk.f_bavail * disk.f_frsize - leave, 0))


def test_a_read_only_folder_is_told(root):
    first = release(root)
    write_run(root, B)
    if os.geteuid() == 0:
        bound = ["mount", "--bind", str(root / "releases"), str(root / "releases")]
        if subprocess.run(bound, capture_output=True).returncode:
            pytest.skip("root writes everywhere unless it may mount read-only")
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root / "releases")], check=True)
    else:
        (root / "releases").chmod(0o555)
    try:
        with pytest.raises(StageError, match=r"releases.*The last release is in place"):
            create_release(root, OPEN)
        require_whole(root, {first})
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(root / "releases")], check=True)
        else:
            (root / "releases").chmod(0o755)
    assert create_release(root, OPEN).id != first


def test_current_that_fell_behind_the_log_follows_it(root):
    first, second = release(root, A), release(root, B)
    point_current(root / "releases", first)  # as if killed between the two steps
    made = create_release(root, OPEN)
    assert made.id == second and "the log says" in made.notes[0]
