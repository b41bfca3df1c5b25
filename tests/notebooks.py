"""`python notebooks.py FILE`: a notebook executed as Jupyter does it, without Jupyter: the answer of a cell is its last expression."""

import ast
import json
import sys
from pathlib import Path
from typing import Any


def execute(notebook: Path) -> None:
    """Run the code cells of `notebook` in their order, and print the answer of each, with a line `---` after it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        where = f"{notebook.name}, {cell['id']}"
        tree = ast.parse("".join(cell["source"]), where)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            answer = eval(compile(ast.Expression(last.value), where, "eval"), names)
            if answer is not None:
                print(answer, end="\n---\n", flush=True)


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
