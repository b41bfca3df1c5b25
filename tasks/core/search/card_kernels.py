# mypy: ignore-errors
# Triton reads the annotations of a kernel itself, and compiles what it reads: types that mypy knows have no meaning here.
"""The three loops of exact search that a graphics card runs, which Triton compiles.

The members of all LF classes stand in slots, `GROUP` slots side by side are a group, and a group is of a single LF class.
Only the largest product of a group and a query is ever written.

Run so far by Triton's interpreter alone, on a processor: it knows nothing of shared memory, of registers, of threads that
race, or of descriptors of memory as a card has them. Therefore `tasks/core/search/card.py` compares every shape of tiles with
plain products on the card before it is used, and a whole search with the processor's. Offsets that can pass 2^31 are 64-bit.

Triton is imported by name at run time, so that it is no part of what results are remembered by: they are the same without.
"""

import importlib

triton = importlib.import_module("triton")
tl = importlib.import_module("triton.language")


def compile_kernel(*changing):
    """A decorator for what Triton compiles at the first launch, once for all values of the arguments `changing`.

    Of others it compiles anew where a number is 1, or is a multiple of 16, for the first time.
    """
    return triton.jit(do_not_specialize=changing)


@compile_kernel("query_tiles", "member_tiles")
def multiply(
    queries,
    members,
    maxima,
    width,
    query_tiles,
    member_tiles,
    COLUMNS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    GROUP: tl.constexpr,
    BAND: tl.constexpr,
    PROGRAMS: tl.constexpr,
    HAS_DESCRIPTORS: tl.constexpr,
):
    """Write the largest product of each group and each query.

    Tiles of `BAND` times `WIDE` members meet all queries before the next ones do, so that both are read from the cache.

    Parameters
    ----------
    queries, members
        (TALL * query_tiles, COLUMNS) and (WIDE * member_tiles, COLUMNS) in float16, or descriptors of them; COLUMNS is a
        multiple of DEEP, and what is beyond the vectors is 0.
    PROGRAMS
        Of descriptors: as many programs as the card has processors go on from tile to tile. Else there is one per tile.
    maxima
        (member slots / GROUP, width) in float32.
    """
    # Without descriptors the number of programs changes with the block, and is therefore no constant.
    step = PROGRAMS if HAS_DESCRIPTORS else tl.num_programs(0)
    for tile in tl.range(tl.program_id(0), query_tiles * member_tiles, step, flatten=HAS_DESCRIPTORS):
        band = tile // (BAND * query_tiles)
        within = tile - band * BAND * query_tiles
        height = tl.minimum(member_tiles - band * BAND, BAND)
        i = within // height
        j = band * BAND + within % height
        products = tl.zeros((TALL, WIDE), tl.float32)
        if HAS_DESCRIPTORS:
            for part in range(0, COLUMNS // DEEP):
                left = queries.load([i * TALL, part * DEEP])
                right = members.load([j * WIDE, part * DEEP])
                products = tl.dot(left, right.T, products)
        else:
            column = tl.arange(0, DEEP)
            # The first row of a tile in 64 bits; within it, 32 bits are enough.
            query = (
                queries + i.to(tl.int64) * (TALL * COLUMNS) + tl.arange(0, TALL)[:, None] * COLUMNS + column[None, :]
            )
            member = (
                members + j.to(tl.int64) * (WIDE * COLUMNS) + tl.arange(0, WIDE)[None, :] * COLUMNS + column[:, None]
            )
            for part in range(0, COLUMNS // DEEP):
                products = tl.dot(tl.load(query + part * DEEP), tl.load(member + part * DEEP), products)
        largest = tl.max(tl.reshape(products, (TALL, WIDE // GROUP, GROUP)), axis=2)
        group = j.to(tl.int64) * (WIDE // GROUP) + tl.arange(0, WIDE // GROUP)
        row = i * TALL + tl.arange(0, TALL)
        tl.store(maxima + group[None, :] * width + row[:, None], largest)


@compile_kernel("begin", "end", "room")
def find_hits(
    maxima,
    width,
    starts,
    lfs,
    lost,
    base,
    slope,
    asking,
    begin,
    end,
    hits,
    count,
    room,
    ACROSS: tl.constexpr,
    DOWN: tl.constexpr,
):
    """List each group and query whose largest product is within the margin of the best of the group's LF class.

    Parameters
    ----------
    maxima, width
        As for `multiply`.
    starts, lfs
        (c + 1,) the first group of each LF class, and the number of groups; (c,) its LF.
    lost, base, slope
        The margin of a query is base + slope * lost: (c,) of LF classes, and (width,) of queries.
    asking
        (m, width) not 0 where the LF asks for the query.
    begin, end
        The queries that are looked at.
    hits, count
        (room,) int64, the group times 2^32 plus the query, in any order; and how many there are, also where they are too
        many, and then some are missing.
    """
    lf_class = tl.program_id(1)
    query = begin + tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    inside = query < end
    lf = tl.load(lfs + lf_class).to(tl.int64)
    asks = tl.load(asking + lf * width + query, mask=inside, other=0) != 0
    if tl.sum(asks.to(tl.int32), axis=0) > 0:
        first, last = tl.load(starts + lf_class), tl.load(starts + lf_class + 1)
        best = tl.full((DOWN, ACROSS), -float("inf"), tl.float32)
        for at in range(first, last, DOWN):
            group = at + tl.arange(0, DOWN)
            here = (group < last)[:, None] & asks[None, :]
            cell = maxima + group[:, None].to(tl.int64) * width + query[None, :]
            best = tl.maximum(best, tl.load(cell, mask=here, other=-float("inf")))
        margin = tl.load(base + query, mask=inside, other=0.0)
        margin += tl.load(slope + query, mask=inside, other=0.0) * tl.load(lost + lf_class)
        floor = tl.max(best, axis=0) - margin
        for at in range(first, last, DOWN):
            group = at + tl.arange(0, DOWN)
            here = (group < last)[:, None] & asks[None, :]
            cell = maxima + group[:, None].to(tl.int64) * width + query[None, :]
            value = tl.load(cell, mask=here, other=-float("inf"))
            is_hit = tl.reshape(((value >= floor[None, :]) & here).to(tl.int32), (DOWN * ACROSS,))
            found = tl.sum(is_hit, axis=0)
            if found > 0:
                # One addition for all hits of the tile; each then counts those before it.
                slot = tl.atomic_add(count, found.to(tl.int64)) + tl.cumsum(is_hit, axis=0) - is_hit
                hit = (group[:, None].to(tl.int64) << 32) + query[None, :].to(tl.int64)
                tl.store(hits + slot, tl.reshape(hit, (DOWN * ACROSS,)), mask=(is_hit > 0) & (slot < room))


@compile_kernel()
def rank(similarity):
    """Integers (int64) that are ordered as the float32 numbers `similarity` are; 0 and -0 have the same."""
    bits = similarity.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@compile_kernel("found")
def score_hits(
    hits,
    found,
    queries,
    query_norms,
    rows,
    positions,
    lf_class_of,
    embeddings,
    norms,
    best,
    doubt,
    width,
    LOWEST: tl.constexpr,
    IS_COSINE: tl.constexpr,
    D: tl.constexpr,
    DEEP: tl.constexpr,
    GROUP: tl.constexpr,
    HITS: tl.constexpr,
):
    """Score the members of `HITS` hits in float64, with the bounds of `bound_similarities`, whose proof holds here as well.

    The order of summation is the card's. Where every number within the bounds rounds to the same float32, that number is the
    similarity, and the member takes part in `best`; where not, it takes part in `doubt`.

    Parameters
    ----------
    hits, found
        By `find_hits`, and how many of them there are.
    queries, query_norms
        (any, D) float32 embeddings, (any,) float64.
    rows, positions
        (slots,) row of `embeddings`, position of the item.
    lf_class_of
        (groups,)
    embeddings, norms
        (any, D) float32, (any,) float64.
    best
        (c, width) int64, changed in place: the largest rank of a similarity times 2^32, plus 2^32 - 1 - position.
    doubt
        (c, width) int64, changed in place: the largest rank that a similarity may have which is in doubt.
    """
    number = tl.program_id(0).to(tl.int64) * HITS + tl.arange(0, HITS)
    is_there = number < found
    hit = tl.load(hits + number, mask=is_there, other=0)
    group, query = hit >> 32, hit & 0xFFFFFFFF
    slot = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    row = tl.load(rows + slot).to(tl.int64)
    total = tl.zeros((HITS, GROUP), tl.float64)
    absolute = tl.zeros((HITS, GROUP), tl.float64)
    for start in range(0, D, DEEP):
        column = start + tl.arange(0, DEEP)
        inside = column < D
        x = tl.load(queries + query[:, None] * D + column[None, :], mask=inside[None, :], other=0.0).to(tl.float64)
        others = embeddings + row[:, :, None] * D + column[None, None, :]
        y = tl.load(others, mask=inside[None, None, :], other=0.0).to(tl.float64)
        if IS_COSINE:
            terms = x[:, None, :] * y
            absolute += tl.sum(tl.abs(terms), axis=2)
        else:
            difference = x[:, None, :] - y
            terms = difference * difference
        total += tl.sum(terms, axis=2)
    # Triton holds a constant such as 1 + error in float32, where it would be 1: so the error stands alone.
    error = total * 0.0 + 8.0 * (D + 8) * 2.0**-53
    if IS_COSINE:
        cosine = total / (tl.load(query_norms + query)[:, None] * tl.load(norms + row))
        # A sum of zeros is 0 in every order.
        error = tl.where(absolute == 0.0, 0.0, error)
        low = tl.minimum(tl.maximum(cosine - error, -1.0), 1.0).to(tl.float32)
        high = tl.minimum(tl.maximum(cosine + error, -1.0), 1.0).to(tl.float32)
    else:
        distance = tl.sqrt(total)
        low = (0.0 - tl.minimum(distance + distance * error, 3.4028234663852886e38)).to(tl.float32)
        high = (0.0 - tl.minimum(distance - distance * error, 3.4028234663852886e38)).to(tl.float32)
    is_sure = low == high
    cell = tl.load(lf_class_of + group).to(tl.int64) * width + query
    key = (rank(low) << 32) + (0xFFFFFFFF - tl.load(positions + slot).to(tl.int64))
    tl.atomic_max(best + cell, tl.max(tl.where(is_sure, key, LOWEST), axis=1), mask=is_there)
    highest = tl.max(tl.where(is_sure, LOWEST, rank(high)), axis=1)
    tl.atomic_max(doubt + cell, highest, mask=is_there & (highest > LOWEST))
