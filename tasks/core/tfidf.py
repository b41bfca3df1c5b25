"""Embeddings of texts from the words and letters they share: TF-IDF, then a truncated SVD.

Deerwester, Dumais, Furnas, Landauer and Harshman, "Indexing by Latent Semantic Analysis", Journal of the American Society
for Information Science 41(6), 1990.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy

from tasks.core.threads import one_thread
from tasks.core.types import Bool, Float32, Float64

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

Kind = Literal["word", "char"]

NGRAMS: dict[Kind, tuple[int, int]] = {"word": (1, 2), "char": (2, 5)}
"""Words and pairs of them; two to five letters within a word, which also know what is misspelt, inflected or new."""

MOST_FEATURES: dict[Kind, int] = {"word": 20_000, "char": 30_000}
"""The most frequent ones are kept: at 128 dimensions they are 26 MB."""

MOST_TEXTS = 50_000
"""Texts that are learned from, those with the lowest hashes: a million would take 4 GB and say much the same."""

_FEW = 100
"""Texts below which an n-gram counts that occurs in one alone; else it occurs in two at least."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextBlock:
    """The n-grams of one kind, ascending, and the inverse document frequency of each, float64 of shape (f,)."""

    kind: Kind
    ngrams: tuple[str, ...]
    idf: Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class TfidfEncoder:
    """What turns a text into a unit vector of d numbers: its n-grams' weights times `components`, float32 of (f, d).

    fallback: (d,) float32, the vector of a text that has none of the n-grams: the direction of the mean text.
    """

    blocks: tuple[TextBlock, ...]
    components: Float32
    fallback: Float32

    def __call__(self, texts: Sequence[str]) -> Float32:
        """Return the vectors of `texts`, float32 of shape (n, d); that of a text does not depend on the others."""
        vectors = self._project(texts)
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        with np.errstate(invalid="ignore", divide="ignore"):
            units: Float32 = (vectors / norms[:, None]).astype(np.float32)
        units[norms == 0] = self.fallback
        return units

    def knows(self, texts: Sequence[str]) -> Bool:
        """Return which of `texts` have an n-gram, (n,)."""
        found: Bool = (self._project(texts) != 0).any(axis=1)
        return found

    def _project(self, texts: Sequence[str]) -> Float64:
        if not self.blocks:
            return np.zeros((len(texts), len(self.fallback)))
        X = weigh(texts, [_make_vectorizer(block) for block in self.blocks])
        vectors: Float64 = X @ self.components.astype(np.float64)
        return vectors


def fit_tfidf(texts: Sequence[str], dimensions: int) -> TfidfEncoder:
    """Return the encoder that `texts`, at least one, teach: the same for the same set of them in any order.

    It has `dimensions` dimensions, or as many as there are texts or n-grams.
    """
    known = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())[:MOST_TEXTS]
    blocks = [block for kind in NGRAMS if (block := _count(known, kind)).ngrams]
    if not blocks:
        return TfidfEncoder(blocks=(), components=np.empty((0, 1), np.float32), fallback=np.ones(1, np.float32))
    X = weigh(known, [_make_vectorizer(block) for block in blocks])
    d = min(dimensions, *X.shape)
    # scikit-learn takes a second to import, which stages that encode nothing should not pay; the limit below is for
    # libraries that are loaded already.
    from sklearn.decomposition import TruncatedSVD

    # Of one text there is no variance to explain; on one thread, or the number of cores would change the last bits.
    with one_thread(), np.errstate(invalid="ignore"):
        svd = TruncatedSVD(d, n_iter=7, random_state=0).fit(X)
    components = np.ascontiguousarray(svd.components_.T.astype(np.float32))
    mean = np.asarray(X.mean(axis=0)).ravel() @ components.astype(np.float64)
    norm = float(np.sqrt((mean**2).sum()))
    fallback = (mean / norm if norm else np.eye(1, d)[0]).astype(np.float32)
    return TfidfEncoder(blocks=tuple(blocks), components=components, fallback=fallback)


def weigh(texts: Sequence[str], vectorizers: "Sequence[TfidfVectorizer]") -> "scipy.sparse.csr_matrix":
    """Return the weights of n-grams in each text, each kind of them of length one together."""
    return scipy.sparse.hstack([vectorizer.transform(texts) for vectorizer in vectorizers], format="csr")


def _count(texts: Sequence[str], kind: Kind) -> TextBlock:
    """The n-grams of `kind` that are kept."""
    vectorizer = _make_vectorizer(None, kind, min_df=1 if len(texts) < _FEW else 2)
    try:
        vectorizer.fit(texts)
    except ValueError:  # not one n-gram occurs often enough
        return TextBlock(kind=kind, ngrams=(), idf=np.empty(0))
    return TextBlock(kind=kind, ngrams=tuple(vectorizer.get_feature_names_out().tolist()), idf=vectorizer.idf_)


def _make_vectorizer(block: TextBlock | None, kind: Kind | None = None, min_df: int = 1) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    kind = kind if block is None else block.kind
    assert kind is not None
    vectorizer = TfidfVectorizer(
        analyzer="word" if kind == "word" else "char_wb",
        ngram_range=NGRAMS[kind],
        token_pattern=r"(?u)\b\w+\b" if kind == "word" else None,  # one letter may be a word
        sublinear_tf=True,
        min_df=min_df,
        max_features=None if block else MOST_FEATURES[kind],
        vocabulary=list(block.ngrams) if block else None,
    )
    if block is not None:
        vectorizer.idf_ = block.idf
    return vectorizer
