"""Prefect and DVC: who calls a stage, in which order, and what is reused. Nothing else imports this package."""

import os

# Prefect asks this variable while it is being imported, so it has to be set before any module here imports Prefect;
# the server's own switch is in pyproject.toml. A value that the user has set wins.
os.environ.setdefault("DO_NOT_TRACK", "1")
