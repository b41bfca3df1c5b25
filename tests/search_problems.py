"""Small searches for property tests, full of ties."""

import numpy as np
from hypothesis import strategies as st

METRICS = ("cosine", "l2")


@st.composite
def problems(draw):
    """Few distinct vectors (so many duplicates and ties), any votes, any reference."""
    n, m, d = draw(st.integers(1, 24)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["grid", "normal", "near", "one"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "grid":
        vectors = rng.integers(-2, 3, (n, d)).astype(np.float32)
    elif kind == "normal":
        vectors = (rng.standard_normal((n, d)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    elif kind == "near":  # closer together than float32 products can tell apart, and far from the origin
        vectors = (1000 + 1e-3 * rng.integers(-2, 3, (n, d))).astype(np.float32)
    else:
        vectors = np.ones((n, d), np.float32)
    vectors[~vectors.any(axis=1)] = 1
    votes = rng.integers(-1, draw(st.integers(1, 3)), (n, m)).astype(np.int8)
    votes[rng.random((n, m)) < draw(st.sampled_from([0, 0.5, 0.9]))] = -1
    return vectors, votes, rng.random(n) < draw(st.sampled_from([0, 0.5, 1]))
