"""A strict subset of YAML, without guesses: keys are text and unique, numbers are decimal, aliases are finite."""

import re
from typing import Any

import yaml


def parse_yaml(text: str, name: str = "text") -> Any:
    """The value of the YAML document `text` from the file `name`, in plain types; a duplicate key is an error.

    Raises
    ------
    yaml.YAMLError
        `text` is not YAML, a key is duplicate or not text (such as `yes` and `1`), a number is not decimal, or aliases are
        endless.
    ValueError
        Python cannot represent a date or number.
    """
    loader = _Loader(text)
    loader.name = name  # for error messages
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"

_MOST_NODES = 100_000
"""Most values in a document, with repetitions by aliases counted: a few lines of aliases can stand for billions."""

_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)|[-+]?[0-9]*\.[0-9]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _measure(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """The number of values below `node`; `sizes` has those of other nodes, and None for nodes that contain `node`."""
    if id(node) not in sizes:
        sizes[id(node)] = None
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_measure(child, sizes) for child in children)
    size = sizes[id(node)]
    if size is None or size > _MOST_NODES:
        what = "an alias stands for what it is in" if size is None else "aliases stand for too many values"
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
    return size


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without duplicate keys and with decimal numbers only: 020 is not 16, and 1:30 is not 90."""

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """The number at `node`."""
        if not _NUMBER.fullmatch(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value[:20]} is not a decimal number; write it as one, or quote it", node.start_mark
            )
        is_whole = node.tag == "tag:yaml.org,2002:int"
        number: int | float = self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.tag not in (_TEXT, _MERGE):
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is not text; quote it", key.start_mark
                    )
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def describe_yaml_error(name: str, content: bytes, error: BaseException) -> str:
    """The line of file `name` at which a YAML parser failed on `content` with `error`, the reason, and what to do.

    >>> import yaml
    >>> try:
    ...     _ = yaml.safe_load("a:\\n\\tb: 1")
    ... except yaml.YAMLError as error:
    ...     print(describe_yaml_error("params.yaml", b"a:\\n\\tb: 1", error))
    params.yaml, line 2: not valid YAML: found character '\\t' that cannot start any token. Indent with spaces, not with tabs.
    """
    if conflict := re.search(rb"^(<{7}|>{7}) ", content, flags=re.MULTILINE):
        line = content.count(b"\n", 0, conflict.start()) + 1
        return (
            f"{name}, line {line}: a merge of Git left both versions there. Choose between them, and remove its marks."
        )
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as bad:
        line = content.count(b"\n", 0, bad.start) + 1
        return f"{name}, line {line}: {content[bad.start : bad.end]!r} is not UTF-8. Save the file as UTF-8."
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{name}: not valid YAML: {error}"
    lines = content.decode("utf-8").splitlines()
    found = lines[mark.line] if mark.line < len(lines) else ""
    has_tab = "\t" in found[: len(found) - len(found.lstrip())]
    cure = "Indent with spaces, not with tabs" if has_tab else "Correct it there, or in the line above"
    return f"{name}, line {mark.line + 1}: not valid YAML: {error.problem}. {cure}."  # type: ignore[attr-defined]
