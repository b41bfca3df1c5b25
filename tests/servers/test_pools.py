"""What the guide says about containers fits the job templates that Prefect itself ships for them."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import prefect.server.api.collections_data as collections
import pytest
import yaml

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "containers.md").read_text()


def read_snippet(key: str) -> dict[str, Any]:
    """The block of YAML in the guide that begins with `key`."""
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.S) if block.startswith(f"{key}:")]
    return dict(yaml.safe_load(text))


def read_template(package: str, kind: str) -> dict[str, Any]:
    """The base job template of a type of pool, as `prefect work-pool get-default-base-job-template` gives it."""
    folder = Path(next(iter(collections.__path__))) / "views"
    known = json.loads((folder / "aggregate-worker-metadata.json").read_text())
    return dict(known[package][kind]["default_base_job_configuration"])


def check_variables(variables: dict[str, Any], template: dict[str, Any]) -> None:
    jsonschema.validate(variables, {**template["variables"], "additionalProperties": False})


def test_docker_job_variables_are_those_of_the_pool() -> None:
    variables = read_snippet("job_variables")["job_variables"]
    template = read_template("prefect-docker", "docker")
    check_variables(variables, template)
    for name, value in (("volume", []), ("auto_remove", "perhaps"), ("image_pull_policy", "Sometimes")):
        with pytest.raises(jsonschema.ValidationError):
            check_variables({**variables, name: value}, template)
    assert all(one.partition(":")[0] == one.partition(":")[2] for one in variables["volumes"])


def test_kubernetes_additions_fit_the_manifest_of_the_pool() -> None:
    added = read_snippet("containers")
    template = read_template("prefect-kubernetes", "kubernetes")
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,), (mine,) = pod["containers"], added["containers"]
    assert mine.pop("name") == container["name"]
    assert not (added.keys() - {"containers"}) & pod.keys() and not mine.keys() & container.keys()
    volumes = {volume["name"] for volume in added["volumes"]}
    assert {mount["name"] for mount in mine["volumeMounts"]} == volumes
    (docker_mount,) = read_snippet("job_variables")["job_variables"]["volumes"]
    assert [mount["mountPath"] for mount in mine["volumeMounts"]] == [docker_mount.partition(":")[2]]
    check_variables({"image": "epoxy-flow:latest"}, template)
