"""`python -m flows.cli`: the same as `epoxy`."""

from flows.cli.main import main

main(prog_name="epoxy")
