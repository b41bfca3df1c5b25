"""`python -m benchmarks <name> ...`: run one benchmark of this folder; each is also a module of its own."""

import importlib
import pkgutil
import sys

import benchmarks

SHARED = frozenset({"__main__", "carried", "descriptions", "made_up", "memory", "real_tasks", "spaces"})
"""Modules that benchmarks share and that are none themselves."""


def list_names() -> list[str]:
    """The names of all benchmarks, ascending."""
    return sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - SHARED)


def main(arguments: list[str]) -> int:
    """The exit code of the benchmark that `arguments` names."""
    names = list_names()
    if not arguments or arguments[0] not in names:
        print(f"usage: python -m benchmarks {{{','.join(names)}}} [options]", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
