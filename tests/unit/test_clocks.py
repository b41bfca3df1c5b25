"""Labeling functions that ask a clock or draw at random are found by their code, and their votes are never kept."""

from pathlib import Path

import pytest
from test_fingerprint import CLASSES, HEADER, NOTE, project  # noqa: F401  project is a fixture

from tasks import apply
from tasks.params import ApplyParams


def run(root: Path, module: str) -> list[str]:
    """The LFs that were asked in a run with this module."""
    (root / "lfs" / "mine.py").write_text(HEADER.replace("from lfs import asked\n", NOTE) + module)
    (root / "log").unlink(missing_ok=True)
    apply.run(root, CLASSES, ApplyParams(source="lfs/mine.py"))
    return sorted(set((root / "log").read_text().split())) if (root / "log").exists() else []


ASKS = {
    "datetime.now": "from datetime import datetime\ndef is_old(): return datetime.now().year > 2000",
    "date.today": "import datetime as d\nclass Clock:\n    def ask(self): return d.date.today()\nCLOCK = Clock()\n"
    "def is_old(): return CLOCK.ask().year > 2000",
    "datetime.today": "def is_old():\n    from datetime import datetime as when\n    return when.today().year > 2000",
    "time.time": "from time import time as clock\ndef is_old(): return clock() // 1e9 > 0",
    "time.time_ns": "import time\ndef make(ask=time.time_ns):\n    def inner(): return ask() > 0\n    return inner\nis_old = make()",
    "time.localtime": "import time\nis_old = functools.partial(lambda ask: ask().tm_year > 2000, time.localtime)",
    "random.random": "import random\ndef is_old():\n    random.seed(0)\n    return random.random() < 2",
    "secrets.choice": "import secrets\nTABLE = {'ask': [secrets.choice]}\ndef is_old(): return TABLE['ask'][0]([True])",
    "uuid.uuid4": "import uuid\n@functools.lru_cache\ndef draw(): return uuid.uuid4()\ndef is_old(): return len(str(draw())) > 0",
    "os.urandom": "import os\ndef is_old(): return [os.urandom(1) for _ in range(2)] != []",
    "numpy.random.rand": "import numpy as np\ndef is_old(): return np.random.rand() < 2",
    "numpy.datetime64": "import numpy as np\ndef is_old(): return np.datetime64('today') > np.datetime64('2000-01-01')",
}

LF = "\n@labeling_function\ndef old(item):\n    note('old')\n    return 1 if is_old() else ABSTAIN\n"


@pytest.mark.parametrize("source", ASKS)
def test_a_clock_is_named_and_no_vote_is_kept(
    project: Path,  # noqa: F811
    source: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        assert run(project, ASKS[source] + LF) == ["old"]
        assert (
            f"warning: labeling function 'old' (lfs/mine.py) asks {source}, which changes from one moment to the next: its votes "
            "are those of the moment when apply ran, and a later day reruns nothing. Take what it needs from a column of "
            "the items."
        ) in capfd.readouterr().err.splitlines()


def test_a_clock_that_is_asked_at_import_is_named(project: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    module = "from datetime import datetime, timedelta\nTODAY = datetime.now().date()\ndef is_old(): return TODAY.year > 2000"
    run(project, module + LF)
    assert "warning: lfs/mine.py asks datetime.now, which changes" in capfd.readouterr().err


QUIET = {
    "times of items": "from datetime import datetime\nimport time\n"
    "def is_old(): return datetime(2000, 1, 1).date() < datetime.fromisoformat('2001-01-01').date() and time.strptime('1', '%d')",
    "a seed": "import random\ndef is_old(): return random.Random(7).random() < 2",
    "a name alone": "from time import time\nfrom datetime import date\ndef is_old(): return True",
    "a generator with a seed": "import numpy as np\ndef is_old(): return np.random.default_rng(7).random() < 2",
    "a method called now": "class Now:\n    def now(self): return True\nnow = Now()\ndef is_old(): return now.now()",
}


@pytest.mark.parametrize("name", QUIET)
def test_what_is_no_clock_is_not_named(project: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    run(project, QUIET[name] + LF)
    assert "warning: " not in capfd.readouterr().err


def test_lfs_of_all_kinds_are_looked_into(project: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    module = """
import time
import polars as pl

@vectorized_labeling_function
def batch(items):
    return vote_where(pl.col("text").str.len_chars() > time.time() // 1e12, 1)

@labeling_function
def again(item):
    return first(item)

@labeling_function
def first(item):
    return 1 if time.time() > 0 else ABSTAIN

word = keyword_lf("word", column="text", keywords=["free"], label=1)
"""
    (project / "lfs" / "mine.py").write_text(
        "from tasks.labeling import *\nfrom tasks.labeling import ABSTAIN\n" + module
    )
    apply.run(project, ("HAM", "SPAM"), ApplyParams(source="lfs/mine.py"))
    said = capfd.readouterr().err
    assert [name in said for name in ("'batch'", "'again'", "'first'", "'word'")] == [True, True, True, False]


LAZY = {
    "a module": "from lfs import lazy\ndef is_old():\n    try:\n        return lazy.gone > 0\n    except ModuleNotFoundError:\n        return True",
    "a name of a module": "def is_old():\n    try:\n        from lfs.lazy import gone\n    except ModuleNotFoundError:\n        return True",
    "a class": "from lfs.lazy import Lazy\ndef is_old():\n    try:\n        return Lazy.gone\n    except ModuleNotFoundError:\n        return True",
    "an object": "from lfs.lazy import Lazy\nLAZY = Lazy()\ndef is_old():\n    try:\n        return LAZY.gone\n    except ModuleNotFoundError:\n        return True",
    "a library's module": "import polars\ndef is_old(): return len(str(type(polars._dependencies.torch))) > 0 or polars._dependencies.torch.Tensor",
}


@pytest.mark.parametrize("name", LAZY)
def test_attributes_that_cannot_be_had_are_no_clocks(
    project: Path,  # noqa: F811
    name: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (project / "lfs" / "lazy.py").write_text(
        "def __getattr__(name):\n    raise (AttributeError if name == '__path__' else ModuleNotFoundError)(name)\n\nclass Later(type):\n    __getattr__ = lambda self, name: "
        "__getattr__(name)\n\nclass Lazy(metaclass=Later):\n    __getattr__ = lambda self, name: __getattr__(name)\n"
    )
    assert run(project, LAZY[name] + LF) == ["old"]
    assert "warning: " not in capfd.readouterr().err
