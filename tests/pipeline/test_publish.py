"""Carrying releases on: real DVC and real Git, with others at work on the same branch meanwhile."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_api import ask, know_server
from release_project import Run, add_rows, hash_tree, write_run

from flows import label_new, release_flow
from flows.cli.main import main
from flows.cli.releases import releases_command
from flows.released_asset import name_asset
from flows.releases.commands import CarryError
from flows.releases.create import RefusedError
from flows.releases.git import GitRepo
from flows.releases.last_run import describe_commit, trust_folder
from flows.releases.lineage import read_log
from flows.releases.policy import read_policy
from flows.releases.publish import publish_release, publish_rollback, push_releases
from flows.releases.records import Commit, read_commit
from flows.releases.store import find_release, list_releases, verify_all, verify_release
from tasks.errors import DataError, ParamsError
from tasks.tables.paths import ARTIFACTS, SHIPPED_LABELS
from tasks.tables.release_rows import RowChanges

pytestmark = pytest.mark.slow

IGNORED = (Path(__file__).resolve().parents[2] / ".gitignore").read_text()
ATTRIBUTES = (Path(__file__).resolve().parents[2] / ".gitattributes").read_text()


class Checkout:
    """A clone of the team's project, under Git and DVC."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> str:
        ended = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout.strip()

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def dvc(self, *arguments: str) -> None:
        """As a person types it, but in this process: to import DVC takes .8 s of a processor."""
        from dvc.cli import main as type_dvc

        with contextlib.chdir(self.root):
            assert type_dvc(list(arguments)) == 0, arguments

    def finish(self, run: Run) -> None:
        """Make `run` what the pipeline last made, known to DVC."""
        write_run(self.root, run)
        self.tell_dvc()

    def tell_dvc(self) -> None:
        """Let DVC take what lies in data/ for what the stages made: ingest, apply, and one for all others."""
        made = sorted(str(path) for path in ARTIFACTS if (self.root / path).is_file())
        outs = {name: [path for path in made if f"/{name}/" in path] for name in ("ingest", "gold", "apply")}
        taken = {path for paths in outs.values() for path in paths}
        outs["all"] = [path for path in made if path not in taken]
        stages = {
            name: {"cmd": "true", "deps": ["raw"], "params": ["classes"], "outs": own} for name, own in outs.items()
        }
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        (self.root / "dvc.lock").unlink()
        self.dvc("commit", "--force", "--quiet")

    def set_policy(self, **values: object) -> None:
        """Write release.yaml with `values` beside gates that let the toy runs follow each other."""
        gates = {"maximum_flipped": None, "maximum_balance_shift": None}
        (self.root / "release.yaml").write_text(yaml.safe_dump({"gates": gates, **values}))

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkout, a finished run committed and pushed; `origin.git` beside it is its remote."""
    folder = tmp_path_factory.mktemp("template")
    root = folder / "checkout"
    root.mkdir()
    checkout = Checkout(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
        checkout.git("init", "-q", "--bare", "-b", "main", str(folder / "origin.git"))
        checkout.git("init", "-q", "-b", "main")
        checkout.git("config", "user.name", "Team")
        checkout.git("config", "user.email", "team@example.org")
        checkout.git("remote", "add", "origin", "../origin.git")
        (root / "raw").write_text("raw")
        (root / ".gitignore").write_text(IGNORED)
        (root / ".gitattributes").write_text(ATTRIBUTES)
        checkout.dvc("init", "--quiet")
        for name, value in (("core.autostage", "false"), ("core.analytics", "false"), ("cache.type", "copy")):
            checkout.dvc("config", name, value)
        checkout.dvc("remote", "add", "--quiet", "--default", "bytes", "../bytes")
        checkout.finish(Run())
        checkout.set_policy(carry="remote", git="push")
        checkout.commit("project")
        checkout.git("push", "-q", "-u", "origin", "main")
    return folder


@pytest.fixture
def team(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout of its own; DVC's remote is `bytes` beside it. The working directory is its root."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("EPOXY_OPENLINEAGE_URL", raising=False)
    monkeypatch.chdir(tmp_path / "checkout")
    return Checkout(tmp_path / "checkout")


def clone(team: Checkout, name: str) -> Checkout:
    other = Checkout(team.root.parent / name)
    team.git("clone", "-q", str(team.root.parent / "origin.git"), str(other.root))
    other.git("config", "user.name", "Other")
    other.git("config", "user.email", "other@example.org")
    return other


def test_a_fresh_clone_reads_what_was_released(team):
    before = team.git("rev-parse", "HEAD")
    made = publish_release(team.root, reason="nightly")
    assert team.git("rev-parse", "HEAD^") == before and team.git("status", "--porcelain") == ""
    changed = team.git("show", "--name-only", "--format=%s", "HEAD").splitlines()
    assert changed[0] == f"Release {made.id}"
    assert set(changed[2:]) == {"releases/current", "releases/log.jsonl", f"releases/{made.id}.dvc"}
    other = clone(team, "clone")
    assert find_release(other.root, "current") == made.id
    with pytest.raises(DataError, match=f"dvc pull releases/{made.id}.dvc"):
        verify_release(other.root, "current")
    other.dvc("pull", "--quiet", f"releases/{made.id}.dvc")
    assert verify_release(other.root, "current").id == made.id
    assert verify_all(other.root) == ()
    assert pl.read_parquet(other.root / "releases/current/labels.parquet").height == 4
    assert other.git("status", "--porcelain") == ""


def test_dvc_counts_releases_among_what_it_pushes_pulls_and_keeps(team):
    team.set_policy(git="push")  # bytes in the cache, to be pushed by hand
    team.commit("policy")
    team.git("push", "-q")
    made = publish_release(team.root)
    assert team.git("status", "--porcelain") == ""
    team.dvc("gc", "--quiet", "--force", "--workspace")
    team.dvc("push", "--quiet")
    team.dvc("gc", "--quiet", "--force", "--workspace", "--cloud")
    other = clone(team, "clone")
    other.dvc("pull", "--quiet", "--allow-missing")
    assert verify_release(other.root, "current").id == made.id


def test_dvc_api_reads_a_release_from_git_alone(team):
    # DVC clones the project elsewhere, so that the remote's place must not depend on the checkout's.
    team.dvc("remote", "modify", "--quiet", "bytes", "url", str(team.root.parent / "bytes"))
    team.commit("remote")
    team.git("push", "-q")
    made = publish_release(team.root)
    import dvc.api

    url = str(team.root.parent / "origin.git")
    pointer = subprocess.run(["git", "show", "main:releases/current"], cwd=url, capture_output=True, text=True).stdout
    assert pointer == made.id
    labels = dvc.api.read(f"releases/{pointer}/labels.parquet", repo=url, rev="main", mode="rb")
    assert labels == (team.root / SHIPPED_LABELS).read_bytes()


def test_by_default_git_is_left_alone_and_the_bytes_are_in_the_cache(team):
    team.set_policy()
    team.commit("policy")
    head = team.git("rev-parse", "HEAD")
    made = publish_release(team.root)
    assert team.git("rev-parse", "HEAD") == head
    untracked = team.git("status", "--porcelain", "--untracked-files=all").splitlines()
    assert set(untracked) == {f"?? releases/{name}" for name in ("current", "log.jsonl", f"{made.id}.dvc")}
    assert not (team.root.parent / "bytes").exists()
    labels = team.root / "releases" / made.id / "labels.parquet"
    labels.chmod(0o644)
    labels.write_bytes(b"damaged")
    team.dvc("checkout", "--quiet", "--force", f"releases/{made.id}.dvc")
    assert verify_release(team.root, made.id).id == made.id


def test_work_in_progress_stays_out_of_it(team):
    (team.root / "lfs" / "staged.py").write_text("x = 1\n")
    team.git("add", "lfs/staged.py")
    (team.root / "release.yaml").write_text((team.root / "release.yaml").read_text() + "# mine\n")
    publish_release(team.root)
    assert team.git("status", "--porcelain").splitlines() == ["A  lfs/staged.py", " M release.yaml"] or set(
        team.git("status", "--porcelain").splitlines()
    ) == {"A  lfs/staged.py", "M release.yaml"}
    assert "staged.py" not in team.git("ls-tree", "-r", "--name-only", "origin/main")


def test_somebody_else_pushed_meanwhile(team):
    first = publish_release(team.root)
    other = clone(team, "other")
    (other.root / "notes.txt").write_text("theirs")
    other.commit("theirs")
    other.git("push", "-q")
    theirs = other.git("rev-parse", "HEAD")
    team.finish(Run(comment="second"))
    second = publish_release(team.root)
    # On top of theirs, nothing of theirs lost, and the pipeline's own unpushed files not taken along.
    other.git("pull", "-q")
    assert other.git("rev-parse", "HEAD^") == theirs
    assert (other.root / "notes.txt").read_text() == "theirs"
    assert find_release(other.root, "current") == second.id
    assert {listed.id for listed in list_releases(other.root)} == {first.id, second.id}
    # The next night goes on from there, though nobody pulled here.
    team.finish(Run(comment="third"))
    third = publish_release(team.root)
    other.git("pull", "-q")
    assert find_release(other.root, "current") == third.id
    assert [record.release for record in read_log(other.root / "releases/log.jsonl").records] == [
        first.id,
        second.id,
        third.id,
    ]
    # And whoever works here pulls as ever.
    team.commit("the pipeline's files")
    team.git("pull", "-q", "--no-rebase", "--no-edit")
    assert find_release(team.root, "current") == third.id and verify_all(team.root) == ()


def test_a_push_that_comes_second_is_repeated(team, monkeypatch):
    publish_release(team.root)
    other = clone(team, "other")
    push = GitRepo.push
    pushed = []

    def push_second(repo, remote, commit, branch):
        if len(pushed) < 2:
            (other.root / "notes.txt").write_text(str(len(pushed)))
            other.commit("theirs")
            other.git("push", "-q")
            pushed.append(other.git("rev-parse", "HEAD"))
        push(repo, remote, commit, branch)

    monkeypatch.setattr(GitRepo, "push", push_second)
    team.finish(Run(comment="second"))
    made = publish_release(team.root)
    other.git("pull", "-q")
    assert len(pushed) == 2 and other.git("rev-parse", "HEAD^") == pushed[1]
    assert find_release(other.root, "current") == made.id


def test_commits_of_yours_are_not_pushed(team):
    (team.root / "secret.txt").write_text("not yet")
    team.commit("mine, not pushed")
    made = publish_release(team.root)
    other = clone(team, "other")
    assert not (other.root / "secret.txt").exists()
    assert find_release(other.root, "current") == made.id
    assert (team.root / "secret.txt").exists() and "mine, not pushed" in team.git("log", "--format=%s")


def test_a_remote_that_is_gone_leaves_the_release_and_can_be_caught_up_with(team):
    origin = team.root.parent / "origin.git"
    origin.rename(origin.with_name("away"))
    with pytest.raises(CarryError, match="git fetch"):
        publish_release(team.root)
    made = find_release(team.root, "current")
    assert verify_all(team.root) == ()
    origin.with_name("away").rename(origin)
    push_releases(team.root, read_policy(team.root), "Catch up")
    assert find_release(clone(team, "other").root, "current") == made


def test_bytes_that_cannot_be_pushed_hold_the_pointers_back(team):
    head = team.git("rev-parse", "origin/main")
    (team.root.parent / "bytes").write_text("no folder")
    with pytest.raises(CarryError, match="push"):
        publish_release(team.root)
    assert team.git("rev-parse", "origin/main") == head == team.git("rev-parse", "HEAD")
    assert verify_all(team.root) == () and find_release(team.root, "current")


def test_bytes_that_are_gone_hold_the_pointers_back_until_they_are_added_again(team):
    made = publish_release(team.root)
    policy = read_policy(team.root)
    shutil.rmtree(team.root / ".dvc" / "cache")
    shutil.rmtree(team.root.parent / "bytes")
    with pytest.raises(CarryError, match=rf"'dvc commit --force releases/{made.id}\.dvc'"):
        push_releases(team.root, policy, "again")
    pointer = (team.root / f"releases/{made.id}.dvc").read_bytes()
    team.dvc("commit", "--quiet", "--force", f"releases/{made.id}.dvc")
    assert (team.root / f"releases/{made.id}.dvc").read_bytes() == pointer
    push_releases(team.root, policy, "again")
    other = clone(team, "other")
    other.dvc("pull", "--quiet", f"releases/{made.id}.dvc")
    assert verify_release(other.root, made.id).id == made.id


def test_a_command_that_takes_too_long_is_ended(team):
    team.set_policy(carry="remote", git="none", timeout_seconds=0.05)
    with pytest.raises(CarryError, match=r"took longer than 0\.05 s"):
        publish_release(team.root)
    assert not (team.root / "releases/current").exists()  # it is not in DVC's cache yet, so it is not current


def test_an_old_pipeline_is_not_released(team):
    (team.root / "raw").write_text("new")
    with pytest.raises(DataError, match=r"not up to date \(.*raw"):
        publish_release(team.root)


def test_rollback_and_pruning_reach_git(team):
    team.set_policy(carry="remote", git="push", keep=2)
    team.commit("policy")
    team.git("push", "-q")
    ids = []
    for comment in "abc":
        team.finish(Run(comment=comment))
        ids.append(publish_release(team.root).id)
    publish_rollback(team.root, reason="bad night")
    other = clone(team, "other")
    assert find_release(other.root, "current") == ids[1]
    assert {path.name for path in (other.root / "releases").glob("*.dvc")} == {f"{name}.dvc" for name in ids[1:]}
    with pytest.raises(RefusedError, match="bad night"):
        publish_release(team.root)
    for line in (other.root / "releases/log.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_commit_has_an_author_where_nobody_configured_one(team):
    for key in ("user.name", "user.email"):
        with contextlib.suppress(AssertionError):
            team.git("config", "--unset", key)
    publish_release(team.root)
    assert team.git("show", "-s", "--format=%an <%ae>") == "epoxy <epoxy@localhost>"


# What Git lacks


def detach(team: Checkout) -> Checkout:
    team.git("switch", "--quiet", "--detach")
    return team


def add_detached_worktree(team: Checkout) -> Checkout:
    team.git("worktree", "add", "--quiet", "--detach", "../detached")
    beside = Checkout(team.root.parent / "detached")
    shutil.copytree(team.root / ".dvc" / "cache", beside.root / ".dvc" / "cache")
    beside.dvc("checkout", "--quiet")
    return beside


def forget_commits(team: Checkout) -> Checkout:
    team.git("switch", "--quiet", "--orphan", "fresh")
    team.git("checkout", "main", "--", ".")
    return team


def forget_remote(team: Checkout) -> Checkout:
    team.git("remote", "remove", "origin")
    return team


def forget_git(team: Checkout) -> Checkout:
    shutil.rmtree(team.root / ".git")
    team.dvc("config", "--local", "core.no_scm", "true")
    return team


@pytest.mark.parametrize(
    ("git", "change", "said"),
    [
        ("commit", detach, "HEAD is detached, so that a commit would be on no branch: run 'git switch BRANCH'"),
        ("push", detach, "HEAD is detached"),
        ("commit", add_detached_worktree, "HEAD is detached"),
        ("commit", forget_commits, "branch fresh has no commit yet: commit the project first"),
        ("push", forget_remote, "branch main is pushed to 'origin', and Git knows no such remote: run 'git remote add"),
        ("commit", forget_git, "the project is not under Git: run 'git init' in its root and commit it"),
    ],
)
def test_what_git_could_not_take_is_refused_before_anything_is_made(team, monkeypatch, git, change, said):
    team.set_policy(carry="remote", git="none")
    first = publish_release(team.root).id
    team.set_policy(carry="remote", git=git)
    team.commit("policy and release")
    checkout = change(team)
    monkeypatch.chdir(checkout.root)
    checkout.finish(Run(comment="more"))
    before = hash_tree(checkout.root / "releases")
    for command in (["release"], ["rollback", first], ["releases", "prune", "--keep", "1"], ["releases", "push"]):
        refused = epoxy(*command)
        assert refused.exit_code == ParamsError.exit_code, command
        assert f"release.yaml: 'git: {git}' is not possible. {said}" in refused.stderr
        assert refused.stderr.strip().endswith("or set 'git: none'.")
    assert hash_tree(checkout.root / "releases") == before


def test_a_project_of_another_user_is_not_called_one_without_git(
    team: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = team.root.resolve()
    assert read_commit(root).id is not None
    for name, value in (
        ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1"),
        ("GIT_CONFIG_GLOBAL", os.devnull),
        ("GIT_CONFIG_NOSYSTEM", "1"),
    ):
        monkeypatch.setenv(name, value)
    assert read_commit(root) == Commit(id=None, is_dirty=None, is_foreign=True)
    assert describe_commit(root) == "a folder of another user, which Git refuses"
    obstacle = GitRepo(root=root, timeout_seconds=60).find_obstacle(is_pushed=False)
    assert obstacle == f"Git refuses the project's folder, which is another user's: {trust_folder(root)}"


def test_a_project_without_git_says_how_to_go_on_and_what_its_releases_lack(team):
    team.set_policy(git="none")
    shutil.rmtree(team.root / ".git")
    for command in ("status", "release", "run"):
        refused = epoxy(command)
        assert refused.exit_code == ParamsError.exit_code
        assert f"error: {team.root} is not a git repository; run 'git init' there, or" in refused.stderr
    assert epoxy("releases").stdout.startswith("no release yet")
    team.dvc("config", "--local", "core.no_scm", "true")
    assert epoxy("status").stdout == "everything is up to date\n"
    made = epoxy("release")
    assert made.exit_code == 0 and "note: the project has no commit of Git" in made.stderr
    shown = json.loads(epoxy("releases", "show").stdout)
    assert shown["commit"] is None and shown["record"]["commit"] is None
    assert "commit: unknown" in epoxy("releases", "trace", "c").stdout
    assert epoxy("releases", "verify").stdout == "1 release is whole\n"
    team.git("init", "-q")
    team.dvc("config", "--local", "core.no_scm", "false")
    assert epoxy("release").exit_code == 0  # a repository without a commit is enough for DVC


def test_defaults_of_a_missing_policy_are_told(team):
    (team.root / "release.yaml").unlink()
    made = epoxy("release")
    assert made.exit_code == 0 and "note: release.yaml is missing: gates, keep" in made.stderr
    (team.root / "release.yaml").write_text("# to do\n")
    for command in (["releases", "push"], ["releases", "prune"]):
        assert "note: release.yaml is empty: gates, keep" in epoxy(*command).stderr
    team.set_policy(git="none")
    assert "note:" not in epoxy("releases", "push").stderr


# The command and the flows


def epoxy(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_command_releases_refuses_accepts_compares_and_goes_back(team):
    team.set_policy(git="none", gates={})
    assert epoxy("releases").stdout.startswith("no release yet")
    first = epoxy("release", "--reason", "first")
    assert first.exit_code == 0 and "nothing to compare" in first.stdout
    one = find_release(team.root, "current")
    team.finish(Run(labels=(0, 1, 1, 1)))
    refused = epoxy("release")
    assert refused.exit_code == 6
    assert "labels flipped" in refused.stderr and f"release {one} stays current" in refused.stderr
    accepted = epoxy("release", "--accept", "looked at it")
    assert accepted.exit_code == 0 and f"(before: {one})" in accepted.stdout
    assert "  c: ham -> spam" in epoxy("releases", "diff", one).stdout
    assert json.loads(epoxy("releases", "diff", one[:5], "current", "--json").stdout)["labels"]["flips"] == [
        {"item_id": "c", "before": "ham", "after": "spam"}
    ]
    assert "hello: ham, from item a" in epoxy("releases", "trace", "c").stdout
    assert "rows: 0 new, 0 changed, 0 deleted, 4 kept" in accepted.stdout
    shown = json.loads(epoxy("releases", "show").stdout)
    assert shown["record"]["previous"] == one and shown["record"]["rows"]["kept"] == 4
    assert json.loads(epoxy("releases", "show", one).stdout)["id"] == one
    assert epoxy("releases", "verify").stdout == "2 releases are whole\n"
    assert epoxy("rollback", "--reason", "oops").exit_code == 0
    listed = epoxy("releases", "list").stdout.splitlines()
    assert listed[0][:14] == f"* {one}" and "accepted: looked at it" in listed[1]
    assert epoxy("releases", "prune", "--keep", "1").stdout == "nothing to remove\n"  # the newest and the current one
    assert epoxy("releases", "show", "nonsense").exit_code == 3
    assert epoxy("releases", "push").stdout == "carried on: bytes dvc, git none\n"
    (team.root / "releases" / one / "labels.parquet").chmod(0o644)
    (team.root / "releases" / one / "labels.parquet").write_bytes(b"")
    assert epoxy("releases", "verify").exit_code == 3


@pytest.mark.parametrize("name", ["release", "rollback", *(f"releases {name}" for name in releases_command.commands)])
def test_everything_has_help(name):
    assert epoxy(*name.split(), "--help").exit_code == 0


def test_the_flows_release_refuse_and_go_back(team, prefect_server):
    team.set_policy(git="none", gates={})
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state = release_flow.release(reason="tonight", return_state=True)
        assert state.name == "Completed"
        one = state.result()
        record = read_log(team.root / "releases/log.jsonl").records[-1]
        assert (record.reason, record.run_id) == ("tonight", str(state.state_details.flow_run_id))
        team.finish(Run(labels=(0, 1, 1, 1)))
        refused = release_flow.release(return_state=True)
        assert refused.is_failed() and refused.name == release_flow.REFUSED
        assert "labels flipped" in refused.message and find_release(team.root, "current") == one.id
        two = release_flow.release(accept="looked at it", return_state=True).result()
        assert two.previous == one.id
        assert release_flow.rollback(return_state=True).result().id == one.id
        assert find_release(team.root, "current") == one.id
        again = release_flow.release(accept="as it is", return_state=True).result()
        assert (again.id, again.previous) == (two.id, one.id)
        same = release_flow.release(accept="as it is", return_state=True).result()
        assert same.id == same.previous == two.id
    # Each time that other labels became current, and no other time.
    expected = [one.id, two.id, one.id, two.id]
    assert [
        event["payload"]["release"] for event in wait_for_assets(prefect_server, team.root, len(expected))
    ] == expected


def wait_for_assets(api_url, root, count):
    """What the server was told of the labels of the project at `root`, oldest first; events arrive a little later."""
    query = {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}, "limit": 50}
    until = time.monotonic() + 60
    while True:
        answer = ask(know_server(api_url), "POST", "events/filter", query).json()
        named = [event for event in answer["events"] if event["resource"]["prefect.resource.id"] == name_asset(root)]
        found = [
            event for event in named if Path(event["payload"]["path"]).is_relative_to(root)
        ]  # others are called so, too
        if len(found) >= count or time.monotonic() > until:
            return sorted(found, key=lambda event: event["occurred"])
        time.sleep(0.2)


def test_the_flow_of_a_night_labels_what_is_new_and_tells_when_nothing_is(team, prefect_server):
    free = dict.fromkeys(("maximum_flipped", "maximum_balance_shift", "maximum_neighbor_shift"))
    team.set_policy(git="none", gates=free)
    one = publish_release(team.root).id
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        state = label_new.label_new(return_state=True)
        assert (state.name, state.result()) == (release_flow.NOTHING_NEW, None)
        add_rows(team.root, [("e", (0.0, 1.0)), ("f", (1.0, 0.0))])
        team.tell_dvc()
        state = label_new.label_new(reason="tonight", return_state=True)
        made = state.result()
        assert (state.name, made.previous, find_release(team.root, "current")) == ("Completed", one, made.id)
        record = read_log(team.root / "releases/log.jsonl").records[-1]
        assert record.reason == "tonight" and record.rows == made.rows == RowChanges(
            kept=4, new=2, changed=0, deleted=0
        )
        assert state.message == f"release {made.id} is current; rows: 2 new, 0 changed, 0 deleted, 4 kept"
        assert pl.read_parquet(made.path / "labels.parquet")["label"].tail(2).to_list() == ["spam", "ham"]
        (team.root / "lfs" / "spam.py").write_text("# edited\n")
        with pytest.raises(DataError, match=r"lfs/spam\.py changed since release"):
            label_new.label_new(return_state=True).result()
    refused = CliRunner().invoke(main, ["label-new"])
    assert refused.exit_code == 3 and "lfs/spam.py changed since release" in refused.stderr


def test_the_command_of_a_night_says_what_it_did(team):
    team.set_policy(git="none", gates=dict.fromkeys(("maximum_balance_shift", "maximum_neighbor_shift")))
    one = publish_release(team.root).id
    add_rows(team.root, [("e", (1.0, 0.0))])
    team.tell_dvc()
    done = CliRunner().invoke(main, ["label-new", "--reason", "tonight"])
    assert done.exit_code == 0, done.output
    assert f"(before: {one})" in done.stdout and "new rows: centroid shift" in done.stdout
    assert CliRunner().invoke(main, ["label-new"]).stdout == "nothing to do: no new, changed or deleted rows\n"
