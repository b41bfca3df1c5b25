"""Compile the kernels of exact search for a card that need not be there: `python tests/compile_kernels.py 90`.

Two lines of JSON: the bytes of shared memory of each shape of tiles, and whether all multiply on tensor cores.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tasks.core.search import card_kernels
from tasks.core.search.card import TILES

WIDE = ("hits", "count", "positions", "best", "doubt")
FLOATS = ("maxima", "lost", "base", "slope", "queries", "embeddings")
NUMBERS = ("width", "query_tiles", "member_tiles", "begin", "end", "room", "found")


def describe(name, types):
    """The type of the argument `name` as Triton writes it; pointers are int32 where nothing else is said."""
    if name in types:
        return types[name]
    if name.isupper():
        return "constexpr"
    if name in NUMBERS:
        return "i32"
    pointers = {"query_norms": "fp64", "norms": "fp64", "asking": "u8", **dict.fromkeys(WIDE, "i64")}
    return "*" + pointers.get(name, "fp32" if name in FLOATS else "i32")


def compile_for(capability, kernel, constants, types=None, **options):
    signature = {name: describe(name, types or {}) for name in kernel.arg_names}
    # Pointers and the width of the products are multiples of 16, as at a real launch.
    aligned = [i for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*") or name == "width"]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def main(capability):
    shared, has_tensor_cores = [], []
    for tiles in TILES:
        if tiles.has_descriptors and capability < 90:
            continue
        shapes = {"queries": (tiles.tall, tiles.deep), "members": (tiles.wide, tiles.deep)}
        types = {
            name: f"tensordesc<fp16[{rows}, {columns}]>" if tiles.has_descriptors else "*fp16"
            for name, (rows, columns) in shapes.items()
        }
        constants = {
            "TALL": tiles.tall,
            "WIDE": tiles.wide,
            "DEEP": tiles.deep,
            "HAS_DESCRIPTORS": tiles.has_descriptors,
        }
        constants |= {"COLUMNS": 384, "GROUP": 16, "BAND": 8, "PROGRAMS": 132}
        made = compile_for(
            capability, card_kernels.multiply, constants, types, num_warps=tiles.warps, num_stages=tiles.stages
        )
        shared.append(made.metadata.shared)
        has_tensor_cores.append(bool(re.search(r"wgmma\.mma_async|mma\.sync", made.asm["ptx"])))
    compile_for(capability, card_kernels.find_hits, {"ACROSS": 128, "DOWN": 16})
    for is_cosine in (True, False):
        constants = {"LOWEST": -(1 << 63), "IS_COSINE": is_cosine, "D": 384, "DEEP": 128, "GROUP": 16, "HITS": 1}
        compile_for(capability, card_kernels.score_hits, constants, num_warps=4)
    print(json.dumps(shared), json.dumps(all(has_tensor_cores)), sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
