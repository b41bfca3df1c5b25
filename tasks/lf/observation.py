"""What labeling functions read besides their items, noticed while they load and vote.

Votes may be reused only if all that they depend on is known, and DVC reruns the stage only if one of its dependencies
changes. So whatever an LF opens is watched by an audit hook (PEP 578), and so are Polars' readers, which Python does
not audit, and environment variables. Files below lfs/, and those of Python and installed packages, are known; anything
else is reported. Not seen are files that other compiled code opens, the clock, and the network.
"""

import functools
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import source_from_cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import polars as pl

from tasks.cache.code import PROJECT, find_code
from tasks.cache.store import identify, identify_file
from tasks.errors import LabelingFunctionError
from tasks.tables.paths import ITEMS, VALID_GOLD

PIPELINE = ("tasks.apply", "tasks.labeling")
"""What asks LFs for votes, and what they import."""

_LIBRARIES = tuple(
    {
        os.path.realpath(folder) + os.sep
        for folder in (
            *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
            *([sys.prefix] if sys.prefix != sys.base_prefix else []),
        )
    }
)
"""Folders of Python and of installed packages, whose versions are in every key."""

_SYSTEM = ("/dev/", "/proc/", "/sys/")
"""Not files of anybody's."""


def is_editor_file(name: str) -> bool:
    """Whether Vim or Emacs write files of this name beside a file that is edited: swap, lock, auto-save and backup."""
    return (
        name.endswith("~")
        or (name.startswith(".") and name[-4:-1] == ".sw")
        or name.startswith(".#")
        or (name.startswith("#") and name.endswith("#"))
    )


def find_lf_files(root: Path) -> list[Path]:
    """All files below lfs/ that LFs consist of or may read, ascending: no byte-code, and no file of an editor."""
    found = (path for path in (root / "lfs").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path for path in found if not is_editor_file(path.name))


def is_edited_by_user(root: Path, file: str | None) -> bool:
    """Whether `file` is a file of the project at `root`, and not of the pipeline or an installed package."""
    if file is None:
        return False
    path = Path(file).resolve()
    is_known = str(path).startswith(_LIBRARIES) or path.is_relative_to(PROJECT / "tasks")
    return path.is_relative_to(root.resolve()) and not is_known


@dataclass
class SideInputs:
    """What was read besides items, each with the line of lfs/ that did."""

    files: dict[str, str] = field(default_factory=dict)
    """Files that the stage does not depend on, or whose content is not in the keys of all LFs, by absolute path."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that code below lfs/ asked for."""
    is_source_read: bool = False
    """Whether Python files below lfs/ were opened other than by importing them as modules of `lfs`."""

    def __bool__(self) -> bool:
        return bool(self.files or self.variables or self.is_source_read)

    def add(self, other: "SideInputs") -> None:
        """Take over what `other` has."""
        self.files |= {path: where for path, where in other.files.items() if path not in self.files}
        self.variables |= {name: where for name, where in other.variables.items() if name not in self.variables}
        self.is_source_read |= other.is_source_read

    def identify(self) -> str:
        """A digest of the present state of all of them."""
        files = {path: _identify_state(Path(path)) for path in self.files}
        return identify(files, {name: os.environ.get(name) for name in self.variables})

    def require_declared(self, root: Path, subject: str) -> None:
        """Check that no file of the project at `root` was read that the stage does not depend on.

        Raises
        ------
        LabelingFunctionError
            There is one; names it and `subject`, who read it.
        """
        home = root.resolve()
        for file, where in self.files.items():
            path = Path(file)
            if not path.is_relative_to(home) or not path.exists() or path in (home / ITEMS, home / VALID_GOLD):
                continue
            relative = path.relative_to(home)
            cure = "Put it into lfs/."
            if relative.parts[0] == "lfs":
                cure = "It is called like an editor's temporary file: rename it."
            elif relative.suffix == ".py":
                cure = f"Put it into lfs/, and import it as lfs.{relative.stem}."
            raise LabelingFunctionError(
                f"{subject} reads {relative} ({where}), which no stage depends on: an edit of it would rerun nothing. {cure}"
            )

    def describe(self, root: Path) -> list[str]:
        """What a change of which reruns nothing, to be told to the user."""
        # One that is not there was only looked for, as Python does with every entry of its path.
        outside = [path for path in self.files if not Path(path).is_relative_to(root.resolve()) and Path(path).exists()]
        return [*outside, *(f"the environment variable {name}" for name in self.variables)]


def _identify_state(path: Path) -> str:
    """What stands for the content of a file: its hash below data/, else its size and time of change."""
    try:
        if path.parts[-2:] in (ITEMS.parts[-2:], VALID_GOLD.parts[-2:]):
            return identify_file(path)
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


@contextmanager
def observe(root: Path) -> Iterator[SideInputs]:
    """Collects what this thread reads within the block for the project at `root`; such blocks must not be nested."""
    _install()
    _thread.observation = observation = _Observation(root)
    try:
        yield observation.found
    finally:
        _thread.observation = None


@contextmanager
def unobserved() -> Iterator[None]:
    """Within the block, nothing is collected: it is the pipeline itself that reads."""
    observation, _thread.observation = _thread.observation, None
    try:
        yield
    finally:
        _thread.observation = observation


class _Observation:
    """What is collected for the project at `root`."""

    def __init__(self, root: Path) -> None:
        self.found = SideInputs()
        self._root = root.resolve()

    def note_file(self, name: object) -> None:
        """Note that the file called `name` is read."""
        if not isinstance(name, str | bytes | os.PathLike):
            return  # the number of an open file
        given = Path.cwd() / os.fsdecode(name)
        path = given.resolve()
        if path.suffix == ".pyc":
            path = given = _find_source(path)
        if str(path).startswith((*_SYSTEM, *_LIBRARIES)) or path.is_dir():
            return
        files = find_lf_files(self._root)
        # A link below lfs/ is a dependency like any file; what a linked folder holds is none.
        known = next((file for file in files if file == given or file.resolve() == path), None)
        if known is not None:
            self.found.is_source_read |= known.suffix == ".py"
        elif path not in _list_pipeline():
            self.found.files.setdefault(str(path), self._locate())

    def note_variable(self, name: str) -> None:
        """Note that the environment variable `name` is read, if it is by code below lfs/."""
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_code.co_filename in _ENVIRONMENT_CODE:
            frame = frame.f_back
        if self._is_lf_code(frame.f_code.co_filename):
            self.found.variables.setdefault(name, self._locate())

    def _is_lf_code(self, file: str) -> bool:
        return Path(file).resolve().is_relative_to(self._root / "lfs")

    def _locate(self) -> str:
        """The innermost line of lfs/ that is running."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not self._is_lf_code(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return "in a library"
        return f"{Path(frame.f_code.co_filename).resolve().relative_to(self._root)}, line {frame.f_lineno}"


class _Thread(threading.local):
    """What each thread observes."""

    observation: _Observation | None = None


_thread = _Thread()

_ENVIRONMENT_CODE = frozenset({os.__file__, "<frozen os>", "<frozen _collections_abc>", __file__})


@functools.cache
def _list_pipeline() -> frozenset[Path]:
    """The files of the pipeline whose content is in every digest."""
    return frozenset(path.resolve() for path in find_code(*PIPELINE))


def _find_source(byte_code: Path) -> Path:
    """The Python file whose byte-code is in this file."""
    try:
        return Path(source_from_cache(str(byte_code)))
    except ValueError:
        return byte_code


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook."""
    observation = _thread.observation
    if observation is None:
        return
    if event == "open":
        name, _, flags = arguments
        if flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_TRUNC:
            with unobserved():
                observation.note_file(name)
    elif event == "os.chdir":
        raise RuntimeError("a labeling function must not change the working directory; use Path(__file__).parent")


@functools.cache
def _install() -> None:
    """Watch what this process does, from now on; outside of `observe`, nothing comes of it."""
    sys.addaudithook(_hear)
    for name in [name for name in dir(pl) if name.startswith(("read_", "scan_"))]:
        setattr(pl, name, _audit(getattr(pl, name)))
    environment: Any = type(os.environ)
    get = environment.__getitem__

    def get_variable(self: Any, key: str) -> str:
        if _thread.observation is not None:
            _thread.observation.note_variable(key)
        value: str = get(self, key)
        return value

    environment.__getitem__ = get_variable
    end = os._exit
    process = os.getpid()

    def refuse_exit(status: int) -> NoReturn:
        if _thread.observation is not None and os.getpid() == process and not _is_exit_allowed:
            raise SystemExit(f"os._exit({status})")
        end(status)

    os._exit = refuse_exit


_is_exit_allowed = False


def allow_exit() -> None:
    """Let LFs end this process: it is a worker's, and who started it tells which LF did."""
    global _is_exit_allowed
    _is_exit_allowed = True


def _audit(read: Callable[..., Any]) -> Callable[..., Any]:
    """`read`, a reader of Polars, which tells the audit hook of the file it is given."""

    @functools.wraps(read)
    def audited(*arguments: Any, **named: Any) -> Any:
        source = arguments[0] if arguments else named.get("source")
        for path in source if isinstance(source, list | tuple) else [source]:
            if _thread.observation is not None and isinstance(path, str | os.PathLike) and "://" not in os.fspath(path):
                sys.audit("open", path, "r", os.O_RDONLY)
        return read(*arguments, **named)

    return audited
