"""The deployments of prefect.yaml on a Prefect server, under names that tell its projects apart.

Prefect knows a deployment by its flow and its name alone: two projects that both deploy `relabel/nightly` would take it
from each other without a word, and only the last of them would run at night.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from flows.runner.process import make_environment
from flows.server_access import Server, ServerError
from tasks.strict_yaml import describe_yaml_error

FILE = "prefect.yaml"

_FORMER = {"release-by-hand": ("by-hand",), "rollback-by-hand": ("by-hand",)}
"""What deployments were called before, beside their name without the project's."""

_TAG = "epoxy"
"""That deployments of our prefect.yaml carry."""

_PAGE = 200
"""Deployments that Prefect's server gives at a time, at most."""


def read_pool(root: Path) -> str:
    """Return the name of the work pool that all deployments of prefect.yaml in `root` share.

    Raises
    ------
    ServerError
        The file is missing or no YAML, or there is no such pool.
    """
    path = root / FILE
    try:
        (pool,) = {str(deployment["work_pool"]["name"]) for deployment in _read(path)["deployments"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{path}: expected deployments that all name one work_pool ({error})") from None
    return pool


def name_deployment(root: Path, name: str) -> str:
    """Return the name on a server of the deployment `name` of the project at `root`.

    >>> name_deployment(Path("/data/labels"), "nightly")
    'labels-nightly'
    >>> name_deployment(Path("/data/labels"), "labels-nightly")
    'labels-nightly'
    """
    prefix = f"{root.resolve().name}-"
    return name if name.startswith(prefix) else prefix + name


def deploy(*, root: Path, server: Server) -> None:
    """Register the deployments of prefect.yaml in `root`, and remove those that stand there under names without the project's.

    A deployment that was paused under its old name is paused under its new one.

    Raises
    ------
    ServerError
        Prefect refused, or a project elsewhere, in a folder of the same name, has deployments of these names.
    """
    root = root.resolve()
    document = _read(root / FILE)
    for deployment in document["deployments"]:
        deployment["name"] = name_deployment(root, deployment["name"])
    names = {deployment["name"] for deployment in document["deployments"]}
    with server.open() as client:
        _refuse_namesake(root, [deployment for deployment in _list(client) if deployment["name"] in names])
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / FILE
        named.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(named)]
        env = make_environment({**os.environ, **server.environment()})
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"{root / FILE}: Prefect could not deploy it:\n{done.stdout}{done.stderr}")
    with server.open() as client:
        deployed = _list(client)
        for old, new in _find_renamed(root, deployed, names):
            if old["paused"]:
                client.patch(f"/deployments/{new['id']}", json={"paused": True}).raise_for_status()
            client.delete(f"/deployments/{old['id']}").raise_for_status()  # and with it the runs that it has planned
            print(f"renamed  {old['name']} is {new['name']} now; its schedule under the old name is gone", flush=True)
        for name, gone in _find_homeless(deployed):
            print(
                f"left     {name}: its project was in {gone}, which is gone; delete it on the server's page", flush=True
            )


def _read(path: Path) -> dict[str, Any]:
    """The document, whose deployments all have names.

    Raises
    ------
    ServerError
        It is missing or another.
    """
    try:
        content = path.read_bytes()
        document = yaml.safe_load(content.decode("utf-8"))
        if not all(isinstance(deployment["name"], str) for deployment in document["deployments"]):
            raise TypeError("a name that is no text")
    except FileNotFoundError:
        raise ServerError(f"{path} is missing; expected the deployments there") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ServerError(describe_yaml_error(str(path), content, error)) from None
    except (KeyError, TypeError) as error:
        raise ServerError(f"{path}: expected a list 'deployments', each with a name ({error})") from None
    return dict(document)


def _refuse_namesake(root: Path, deployed: list[dict[str, Any]]) -> None:
    """Return if `deployed` are of the project at `root`, or of a folder that is no project any more.

    Raises
    ------
    ServerError
        They are of another project.
    """
    for deployment in deployed:
        folder = _find_folder(deployment)
        if folder is not None and folder != root and (folder / FILE).is_file():
            raise ServerError(
                f"the deployment '{deployment['name']}' on this server is that of {folder}, and {root} has the same name. "
                "Names of deployments begin with the name of the project's folder: rename one of the two"
            )


def _find_renamed(
    root: Path, deployed: list[dict[str, Any]], names: Collection[str]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The deployments of the project at `root` under old names, each with its successor under one of `names`."""
    ours = [deployment for deployment in deployed if _find_folder(deployment) == root]
    successors = {}
    for deployment in ours:
        if deployment["name"] in names:
            plain = deployment["name"].removeprefix(f"{root.name}-")
            for old in (plain, *_FORMER.get(plain, ())):
                successors[deployment["flow_id"], old] = deployment
    old_ones = [deployment for deployment in ours if deployment["name"] not in names]
    pairs = [(old, successors.get((old["flow_id"], old["name"].removeprefix(f"{root.name}-")))) for old in old_ones]
    return [(old, new) for old, new in pairs if new is not None]


def _find_homeless(deployed: list[dict[str, Any]]) -> list[tuple[str, Path]]:
    """The names of our deployments whose project is no longer where it was, with the folder: they fail every night."""
    folders = [(str(one["name"]), _find_folder(one)) for one in deployed if _TAG in one["tags"]]
    return [(name, folder) for name, folder in folders if folder is not None and not folder.is_dir()]


def _find_folder(deployment: Mapping[str, Any]) -> Path | None:
    """Where the runs of `deployment` work; None where its steps do not say."""
    for step in deployment["pull_steps"] or ():
        options = step.get("prefect.deployments.steps.set_working_directory")
        if options:
            return Path(options["directory"])
    return None


def _list(client: httpx.Client) -> list[dict[str, Any]]:
    """All deployments that the server has."""
    found: list[dict[str, Any]] = []
    while True:
        asked = {"offset": len(found), "limit": _PAGE}
        page = client.post("/deployments/filter", json=asked).raise_for_status().json()
        found += page
        if len(page) < _PAGE:
            return found
