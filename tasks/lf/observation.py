"""What labeling functions read besides their items, recorded while they load and vote.

Votes may be reused only if everything they depend on is known, and DVC reruns the stage only if one of its dependencies
changes. So an audit hook (PEP 578) records the files that an LF opens; Polars' readers, which Python does not audit,
and environment variables are recorded too. Files below lfs/ and those of Python and installed packages are accounted
for; anything else is reported. Files opened by other compiled code, the clock and the network go unnoticed.
"""

import functools
import hashlib
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
from tasks.tables.answer_table import FOLDER as ANSWERS
from tasks.tables.image_digests import read_image_digests
from tasks.tables.paths import ITEMS, VALID_GOLD

PIPELINE = ("tasks.lf.ask_all", "tasks.labeling")
"""The modules that ask LFs for votes and that LFs import."""

_ARCHIVE = f"python{sys.version_info.major}{sys.version_info.minor}.zip"

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
    # Named on Python's path whether it is there or not; what asks for an installed package's version looks into it.
    | {os.path.realpath(entry) for entry in sys.path if Path(entry).name == _ARCHIVE}
)
"""Folders of Python and installed packages, and Python's archive, whose versions are part of every cache key."""

_SYSTEM = ("/dev/", "/proc/", "/sys/")
"""Folders of the operating system's pseudo-files."""


def is_editor_file(name: str) -> bool:
    """Whether this is the name of a swap, lock, auto-save or backup file of Vim or Emacs."""
    return (
        name.endswith("~")
        or (name.startswith(".") and name[-4:-1] == ".sw")
        or name.startswith(".#")
        or (name.startswith("#") and name.endswith("#"))
    )


def find_lf_files(root: Path) -> list[Path]:
    """All files below lfs/ except byte-code and editors' temporary files, ascending: LFs consist of them or may read them."""
    found = (path for path in (root / "lfs").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path for path in found if not is_editor_file(path.name))


def is_answers_file(path: Path) -> bool:
    """Whether a file below lfs/ is called like the answers of a language model."""
    return path.parent.name == ANSWERS and path.suffix == ".jsonl"


def is_edited_by_user(root: Path, file: str | None) -> bool:
    """Whether `file` belongs to the project at `root` rather than to the pipeline or an installed package."""
    if file is None:
        return False
    path = Path(file).resolve()
    is_known = str(path).startswith(_LIBRARIES) or path.is_relative_to(PROJECT / "tasks")
    return path.is_relative_to(root.resolve()) and not is_known


@dataclass
class SideInputs:
    """What was read besides items, each with the line of lfs/ that read it."""

    files: dict[str, str] = field(default_factory=dict)
    """By absolute path, files that are no dependency of the stage, or whose content is not in every LF's key."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that code below lfs/ read."""
    is_source_read: bool = False
    """Whether Python files below lfs/ were opened other than by importing them as modules of `lfs`."""
    are_answers_read: bool = False
    """Whether answers of language models were read other than by `llm_lf`, for whose LFs alone they count."""

    def __bool__(self) -> bool:
        return bool(self.files or self.variables or self.is_source_read or self.are_answers_read)

    def add(self, other: "SideInputs") -> None:
        """Include everything in `other`."""
        self.files |= {path: where for path, where in other.files.items() if path not in self.files}
        self.variables |= {name: where for name, where in other.variables.items() if name not in self.variables}
        self.is_source_read |= other.is_source_read
        self.are_answers_read |= other.are_answers_read

    def identify(self) -> str:
        """A digest of their present content."""
        files = {path: _identify_state(Path(path)) for path in self.files}
        return identify(files, {name: os.environ.get(name) for name in self.variables})

    def require_declared(self, root: Path, subject: str) -> None:
        """Check that every file of the project at `root` that was read is a dependency of the stage.

        Of images that items name the items are, since they say what each held.

        Raises
        ------
        LabelingFunctionError
            A file is not, or is no longer what the items say; the message names it and its reader, `subject`.
        """
        home = root.resolve()
        images = _read_images(home) if self.files else {}
        for file, where in self.files.items():
            path = Path(file)
            if not path.is_relative_to(home) or not path.exists() or path in (home / ITEMS, home / VALID_GOLD):
                continue
            relative = path.relative_to(home)
            if path in images:
                with unobserved():
                    if hashlib.sha256(path.read_bytes()).hexdigest() == images[path]:
                        continue
                raise LabelingFunctionError(
                    f"{subject} reads {relative} ({where}), which changed since ingest read it. Run 'epoxy run'."
                )
            cure = "Put it into lfs/."
            if relative.parts[0] == "lfs":
                cure = "It is called like an editor's temporary file: rename it."
            elif relative.suffix == ".py":
                cure = f"Put it into lfs/, and import it as lfs.{relative.stem}."
            raise LabelingFunctionError(
                f"{subject} reads {relative} ({where}), which no stage depends on: an edit of it would rerun nothing. {cure}"
            )

    def describe(self, root: Path) -> list[str]:
        """Names, for the user, of everything whose change would rerun nothing."""
        # A file that does not exist was only looked for, as Python does along its path.
        outside = [path for path in self.files if not Path(path).is_relative_to(root.resolve()) and Path(path).exists()]
        return [*outside, *(f"the environment variable {name}" for name in self.variables)]


def _read_images(home: Path) -> dict[Path, str]:
    """What `read_image_digests` says; the table is read once for each state of it."""
    try:
        state = (home / ITEMS).stat()
    except OSError:
        return {}
    return _read_images_of(home, (state.st_mtime_ns, state.st_size, state.st_ino))


@functools.lru_cache(maxsize=1)
def _read_images_of(home: Path, state: tuple[int, int, int]) -> dict[Path, str]:
    with unobserved():
        return read_image_digests(home)


def _identify_state(path: Path) -> str:
    """A text that identifies a file's content: its hash below data/, else its size and modification time."""
    try:
        if path.parts[-2:] in (ITEMS.parts[-2:], VALID_GOLD.parts[-2:]):
            return identify_file(path)
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


@contextmanager
def observe(root: Path) -> Iterator[SideInputs]:
    """Within the block, record what this thread reads for the project at `root`; blocks must not be nested."""
    _install()
    _thread.observation = observation = _Observation(root)
    try:
        yield observation.found
    finally:
        _thread.observation = None


@contextmanager
def unobserved() -> Iterator[None]:
    """Within the block, nothing is recorded: the pipeline itself is reading."""
    observation, _thread.observation = _thread.observation, None
    try:
        yield
    finally:
        _thread.observation = observation


class _Observation:
    """What has been recorded for the project at `root`."""

    def __init__(self, root: Path) -> None:
        self.found = SideInputs()
        self._root = root.resolve()

    def note_file(self, name: object) -> None:
        """Record that the file called `name` was read."""
        if not isinstance(name, str | bytes | os.PathLike):
            return  # a file descriptor
        given = Path.cwd() / os.fsdecode(name)
        path = given.resolve()
        if path.suffix == ".pyc":
            path = given = _find_source(path)
        if str(path).startswith((*_SYSTEM, *_LIBRARIES)) or path.is_dir():
            return
        files = find_lf_files(self._root)
        # A link to a file below lfs/ is a dependency like any file; the content of a linked folder is not.
        known = next((file for file in files if file == given or file.resolve() == path), None)
        if known is not None:
            self.found.is_source_read |= known.suffix == ".py"
            self.found.are_answers_read |= is_answers_file(known)
        elif path not in _list_pipeline() and not _is_empty_package(path):
            self.found.files.setdefault(str(path), self._locate())

    def note_variable(self, name: str) -> None:
        """Record that the environment variable `name` was read, if code below lfs/ read it."""
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_code.co_filename in _ENVIRONMENT_CODE:
            frame = frame.f_back
        if self._is_lf_code(frame.f_code.co_filename):
            self.found.variables.setdefault(name, self._locate())

    def _is_lf_code(self, file: str) -> bool:
        return Path(file).resolve().is_relative_to(self._root / "lfs")

    def _locate(self) -> str:
        """The innermost running line of lfs/, as text."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not self._is_lf_code(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return "in a library"
        return f"{Path(frame.f_code.co_filename).resolve().relative_to(self._root)}, line {frame.f_lineno}"


class _Thread(threading.local):
    """The observation of each thread."""

    observation: _Observation | None = None


_thread = _Thread()

_ENVIRONMENT_CODE = frozenset({os.__file__, "<frozen os>", "<frozen _collections_abc>", __file__})


@functools.cache
def _list_pipeline() -> frozenset[Path]:
    """The pipeline's files, whose content is part of every digest."""
    return frozenset(path.resolve() for path in find_code(*PIPELINE))


def _is_empty_package(path: Path) -> bool:
    """Whether the file makes a folder of the pipeline a package and says nothing, which `find_code` leaves out."""
    return path.name == "__init__.py" and path.is_relative_to(PROJECT / "tasks") and not path.stat().st_size


def _find_source(byte_code: Path) -> Path:
    """The Python file from which this byte-code was compiled."""
    try:
        return Path(source_from_cache(str(byte_code)))
    except ValueError:
        return byte_code


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Record what the LF opens, and refuse what it must not do; the audit hook."""
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
    """Install the hooks in this process, for good; outside `observe` they do nothing."""
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
    """Let LFs end this process: it is a worker, and the process that started it names the LF."""
    global _is_exit_allowed
    _is_exit_allowed = True


def _audit(read: Callable[..., Any]) -> Callable[..., Any]:
    """Polars' reader `read`, wrapped so that it tells the audit hook which file it opens."""

    @functools.wraps(read)
    def audited(*arguments: Any, **named: Any) -> Any:
        source = arguments[0] if arguments else named.get("source")
        for path in source if isinstance(source, list | tuple) else [source]:
            if _thread.observation is not None and isinstance(path, str | os.PathLike) and "://" not in os.fspath(path):
                sys.audit("open", path, "r", os.O_RDONLY)
        return read(*arguments, **named)

    return audited
