"""Texts with one vector are found among thousands."""

from __future__ import annotations

import numpy as np

from ultra_dsmoe.text.class_separation import BLOCK, SAME, identical_pairs


def test_pairs_with_one_vector_are_found_in_order_across_blocks() -> None:
    rng = np.random.default_rng(0)
    count = BLOCK + 300
    vectors = rng.normal(size=(count, 24))
    for i, j in ((3, 7), (3, BLOCK + 5), (7, BLOCK + 5), (BLOCK + 1, BLOCK + 2)):
        vectors[j] = vectors[i]
    vectors[20] = vectors[19]
    vectors[31] = vectors[30] + rng.normal(size=24) * 3 * SAME  # close, but another
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    texts = [[str(i)] for i in range(count)]
    texts[20] = texts[19]  # given twice: meant to be one
    found = identical_pairs(texts, vectors)
    assert found == [(3, 7), (BLOCK + 1, BLOCK + 2), (3, BLOCK + 5), (7, BLOCK + 5)]
