"""Epoxy Flow from Python: open a project and ask about it, in a notebook or a script.

    from epoxy_flow import open_project

    project = open_project()
    project.items(right=False)  # a Polars frame; .to_pandas() gives one of pandas
    project.explain("i00007").parts

The functions behind it are those of the commands `epoxy items`, `epoxy lfs` and so on.
"""

from epoxy_flow.frames import apply_lfs, lf_summary
from epoxy_flow.project import Project, open_project
from tasks.errors import EpoxyError
from tasks.queries.explain import Explanation
from tasks.queries.items import VoteFilter
from tasks.queries.try_lf import Trial

__all__ = [
    "EpoxyError",
    "Explanation",
    "Project",
    "Trial",
    "VoteFilter",
    "apply_lfs",
    "lf_summary",
    "open_project",
]
