"""Versions of packages that labeling functions import: pinned in a file that the stage depends on, or told."""

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from test_clocks import run
from test_fingerprint import project  # noqa: F401  a fixture

from tasks.errors import LabelingFunctionError

ROOT = Path(__file__).resolve().parents[2]

LF = "def sum_up(text):\n    import numpy as np\n    return np.sum([1])\n\n@labeling_function\ndef one(item):\n    return sum_up(item.text)\n"


def pin(root: Path, name: str, **versions: str) -> None:
    (root / name).write_text(
        "".join(f"{package}=={found} \\\n    --hash=sha256:00\n" for package, found in versions.items())
    )


def test_both_doors_see_the_files_that_pin(project: Path) -> None:  # noqa: F811
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["apply"]["deps"]
    assert {"lfs", "requirements.lock"} <= set(deps)


def test_the_versions_of_the_lock_are_taken(project: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    pin(project, "requirements.lock", NumPy=version("numpy"))
    run(project, LF)
    assert "warning" not in capfd.readouterr().err


def test_another_version_is_refused_until_it_is_written_down(project: Path) -> None:  # noqa: F811
    pin(project, "requirements.lock", numpy="1.0.0")
    found = version("numpy")
    said = (
        f"lfs/mine.py imports numpy, for which numpy {found} is installed; requirements.lock says 1.0.0, and votes would be "
        f"recorded as made with that. Install that, or write 'numpy=={found}' into lfs/requirements.txt."
    )
    with pytest.raises(LabelingFunctionError) as caught:
        run(project, LF)
    assert str(caught.value) == said
    pin(project, "lfs/requirements.txt", numpy=found)
    run(project, LF)


def test_what_a_package_requires_counts_as_well(project: Path) -> None:  # noqa: F811
    pin(project, "requirements.lock", **{"scikit-learn": version("scikit-learn"), "scipy": "1.0"})
    with pytest.raises(LabelingFunctionError, match=r"imports sklearn, for which scipy .* requirements.lock says 1.0,"):
        run(project, LF.replace("import numpy as np", "import sklearn; import numpy as np"))


def test_a_package_that_nobody_pins_is_named(project: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    pin(project, "requirements.lock", polars=version("polars"))
    (project / "lfs" / "helper.py").write_text("import numpy as np\n")
    run(
        project,
        "from lfs import helper\nimport polars, os, math, lfs.helper\n"
        + LF.replace("import numpy as np", "np = helper.np"),
    )
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: lfs/mine.py needs packages whose versions no stage depends on: a new one reruns nothing. Write them into "
        f"lfs/requirements.txt: numpy=={version('numpy')}."
    ]
