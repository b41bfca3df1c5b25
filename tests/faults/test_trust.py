"""Trust ends where data begin: nothing read is executed, no path leads out, and no secret leaves the environment."""

import ast
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_project import CLASSES, make_project, write_params
from stage_processes import finish_stage, finish_stages
from toy_project import Toy

from flows.releases.commands import run_dvc
from flows.releases.create import create_release
from flows.releases.lineage import append_event
from flows.releases.lock import lock_releases
from flows.releases.policy import GateLimits
from flows.runner.dvc_status import find_changes
from flows.runner.site_cache import find_site_cache
from tasks import ingest
from tasks.__main__ import STAGES
from tasks.errors import DataError, EpoxyError, ParamsError, StageError
from tasks.params import IngestParams
from tasks.params_file import read_params
from tasks.tables.files import open_atomic, open_atomic_folder
from tasks.tables.gold_table import Decision, append_decision

ROOT = Path(__file__).resolve().parents[2]
CODE = [path for package in ("tasks", "flows", "lfs", "epoxy_flow") for path in sorted((ROOT / package).rglob("*.py"))]


# Nothing is executed.

ALLOWED = {
    ("flows/runner/dvc_patches.py", "pickle"),
    ("tasks/lf/workers.py", "pickle"),
    ("tasks/compute/object_store.py", "pickle"),
    ("tasks/lf/fingerprint.py", "importlib"),
    ("tasks/lf/loading.py", "importlib"),
    ("tasks/lf/clocks.py", "compile"),
    ("tasks/queries/try_lf.py", "compile"),
    ("tasks/queries/try_lf.py", "eval"),
    ("tasks/queries/try_lf.py", "exec"),
}
"""dvc_patches copies what it parsed, in memory; workers talk with the stage that started them; those of a cluster read from an
object store what has the digest that the cluster told them; LF modules are code of the project: clocks compiles one without
running it, and `epoxy try` runs the LF that its user types."""

NEVER = r"""
    (?<![\w.])(eval|exec|compile)\( | \bmarshal\b | \bshelve\b | \bjoblib\b | \bcloudpickle\b | \bdill\b | allow_pickle=True
    | \byaml\.(load|unsafe_load|full_load|load_all)\b | \bshell=True | os\.system | \btorch\.load\b | trust_remote_code=True
    | read_pickle | to_pickle | \bverify=False
"""


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_has_no_way_to_execute_data(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    own = str(path.relative_to(ROOT))
    lines = [line for line in text.splitlines() if "re.compile(" not in line]
    found = {match[0].rstrip("(") for line in lines for match in re.finditer(NEVER, line, flags=re.X)}
    assert found <= {what for path_, what in ALLOWED if path_ == own}
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                top = name.partition(".")[0]
                assert top != "pickle" or (own, top) in ALLOWED, own
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("np.load", "numpy.load")):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_pickle") == "False", f"{own}:{node.lineno}"


# No path leads out.


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("ingest", "source", "/etc"),
        ("ingest", "source", "../outside"),
        ("ingest", "source", "data/../../outside"),
        ("ingest", "items", "/etc/passwd"),
        ("ingest", "items", "../../../etc/*"),
        ("ingest", "embeddings", "../secret.npy"),
        ("ingest", "embedding_ids", "../secret.txt"),
        ("apply", "source", "/tmp/lfs.py"),
        ("apply", "source", "lfs/../../lfs.py"),
        ("apply", "source", "tasks/apply.py"),
        ("apply", "source", "lfs/../votes.parquet"),
    ],
)
def test_params_lead_nowhere_else(project: Path, section: str, key: str, value: str) -> None:
    write_params(project, **{section: {key: value}})
    code, said = finish_stage(project, section)
    assert code == ParamsError.exit_code, said
    assert f"'{section}.{key}'" in said


def test_an_encoder_is_a_name_or_a_folder_of_the_project(project: Path) -> None:
    for model in ("/models/mine", "../mine"):
        write_params(project, ingest={"embeddings": None, "embedding_ids": None, "encoder": {"model": model}})
        code, said = finish_stage(project, "ingest")
        assert code == ParamsError.exit_code and "'ingest.encoder.model'" in said, said


@pytest.mark.parametrize("name", ["items.parquet", "embeddings.npy", "embeddings.npz", "ids.txt"])
def test_links_in_raw_data_lead_nowhere_else(project: Path, name: str, tmp_path: Path) -> None:
    """Who supplies data does not choose which file of this machine is read, and quoted in an error."""
    raw = project / "data" / "raw"
    ids = pl.read_parquet(raw / "items.parquet")["item_id"].to_numpy().astype(str)
    np.savez(raw / "embeddings.npz", ids=ids, embeddings=np.load(raw / "embeddings.npy"))
    (raw / "ids.txt").write_text("\n".join(ids))
    (raw / name).rename(tmp_path / "secret")
    (raw / name).symlink_to(tmp_path / "secret")
    given = {"embeddings": name, "embedding_ids": None} if name.endswith("npz") else {"embedding_ids": "ids.txt"}
    with pytest.raises(DataError, match=rf"{re.escape(name)} is a link that leads out"):
        ingest.run(project, CLASSES, IngestParams(source="data/raw", **given))


def test_votes_from_elsewhere_are_no_link(project: Path, tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("item_id,a\nsecret,1\n")
    (project / "lfs" / "votes.csv").symlink_to(tmp_path / "votes.csv")
    write_params(project, apply={"source": "lfs/votes.csv"})
    code, said = finish_stages(project, ["ingest", "gold", "apply"])
    assert code == DataError.exit_code and "leads out of lfs/" in said and "secret" not in said


def test_params_are_data_and_no_program(project: Path) -> None:
    marker = project / "marker"
    text = f"classes: !!python/object/apply:os.system ['touch {marker}']\n"
    (project / "params.yaml").write_text(text)
    with pytest.raises(EpoxyError):
        read_params(project)
    assert not marker.exists()


# DVC unpickles its notes on files.


def test_dvcs_notes_are_its_owners_alone(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where DVC would have them by default: in a folder that all users of the machine may write."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    folder = toy.root / ".dvc" / "tmp" / f"site-cache-{os.getuid()}"
    doors: list[Callable[[], object]] = [
        lambda: find_changes(toy.root),
        lambda: run_dvc(toy.root, "status", timeout_seconds=60),
    ]
    for door in doors:
        shutil.rmtree(folder, ignore_errors=True)
        door()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(folder.rglob("cache.db"))


def test_notes_that_others_can_write_are_not_read(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    folder = find_site_cache(toy.root)
    folder.chmod(0o770)
    with pytest.raises(StageError, match="only you can enter"):
        find_changes(toy.root)
    folder.rmdir()
    folder.symlink_to(toy.root.parent)
    with pytest.raises(StageError, match="only you can enter"):
        find_changes(toy.root)


def test_notes_are_where_the_environment_or_dvcs_settings_say(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_site_cache(toy.root) == Path(os.environ["DVC_SITE_CACHE_DIR"])
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    toy.run("dvc", "config", "--local", "core.site_cache_dir", str(toy.root.parent / "mine"))
    assert find_site_cache(toy.root) == toy.root.parent / "mine"
    find_changes(toy.root)
    assert list((toy.root.parent / "mine").rglob("cache.db"))


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o002, 0o664, 0o775), (0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_what_is_written_is_as_open_to_others_as_its_writer_wants(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    """With umask 002, two people of a group add gold to one table and release in turn; with 077, nobody else reads."""
    before = os.umask(umask)
    try:
        with open_atomic(tmp_path / "file") as part:
            part.write_text("x")
        with open_atomic_folder(tmp_path / "folder"):
            pass
        append_decision(tmp_path / "gold.jsonl", Decision(item_id="a", label="ham", annotator="ann"))
        append_event(tmp_path / "log.jsonl", {"a": 1})
        with lock_releases(tmp_path):
            pass
    finally:
        os.umask(before)
    for name in ("file", "gold.jsonl", "log.jsonl", "releases/.lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == file, name
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder


# No secret leaves the environment.

SECRET = "canary-7f3a9c"
VARIABLES = {
    "EPOXY_OPENLINEAGE_URL": f"http://user:{SECRET}@127.0.0.1:9/api/v1/lineage",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}",
    "PREFECT_API_KEY": f"pnu_{SECRET}",
    "HF_TOKEN": f"hf_{SECRET}",
}


def find_secret(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if SECRET.encode() in path.read_bytes() or SECRET in path.name]


def test_secrets_of_the_environment_are_in_no_file_and_no_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through all stages, a failing LF with its traceback, and a release whose receiver does not answer."""
    from small_project import run

    monkeypatch.chdir(project)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)  # read by what releases; the stages get theirs below
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(project.parent / "site"))
    assert finish_stages(project, STAGES, environment=VARIABLES)[0] == 0
    module = project / "lfs" / "small.py"
    whole = module.read_text()
    module.write_text(f"{whole}\n\n@labeling_function\ndef broken(item):\n    raise ValueError(item)\n")
    code, said = finish_stages(project, ["apply"], environment=VARIABLES)
    assert code == 4 and SECRET not in said
    module.write_text(whole)
    assert finish_stages(project, ["apply"], environment=VARIABLES)[0] == 0
    done = run(project, "dvc", "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stderr
    made = create_release(project, GateLimits.model_validate({}))
    assert len(made.notes) == 1 and SECRET not in made.notes[0]
    assert (made.path / "manifest.json").is_file()
    assert find_secret(project) == []
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err + said
    assert any(SECRET in value for value in os.environ.values())


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy of a small project, nothing run yet."""
    shutil.copytree(template, tmp_path / "place" / "project", symlinks=True)
    return tmp_path / "place" / "project"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("trust") / "project", n=60)
