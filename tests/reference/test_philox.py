# SPDX-License-Identifier: MIT
"""Philox4x32-10 against Random123's known answers, and the layout of the words that an element draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsym_fast.groups import DRAW_PART, DRAW_SHIFT
from nnsym_fast.reference.philox import normals, philox4x32, sample_indices, uniforms, words

UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)

# kat_vectors of Random123 1.14 (Salmon et al. 2011), lines "philox4x32 10".
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def hex_words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def philox_of_integers(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in plain integers, from the paper's figure 2."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for number in range(10):
        if number:
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 // 2**32 ^ c1 ^ k0, p1 % 2**32, p0 // 2**32 ^ c3 ^ k1, p0 % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    result = philox4x32(hex_words(counter), hex_words(key))
    assert result.dtype == np.uint32
    assert result.tolist() == hex_words(expected)


def test_known_answers_as_one_batch() -> None:
    # One key per call: the batch repeats the counters for the key of each answer and keeps its own row.
    counters = np.array([hex_words(counter) for counter, _, _ in KNOWN_ANSWERS], dtype=np.uint32)
    for row, (_, key, expected) in enumerate(KNOWN_ANSWERS):
        batch = philox4x32(counters.reshape(3, 1, 4), hex_words(key))
        assert batch.shape == (3, 1, 4)
        assert batch[row, 0].tolist() == hex_words(expected)


@given(st.lists(UINT32, min_size=4, max_size=4), st.lists(UINT32, min_size=2, max_size=2))
def test_equals_the_integer_definition(counter: list[int], key: list[int]) -> None:
    assert philox4x32(counter, key).tolist() == philox_of_integers(counter, key)


@given(UINT64, UINT64, st.integers(0, 2**32 - 1), st.sampled_from(sorted(DRAW_PART)), st.integers(1, 11))
def test_words_follow_the_counter_layout(seed: int, sample: int, site: int, part: str, count: int) -> None:
    expected = []
    for block in range(math.ceil(count / 4)):
        draw = DRAW_PART[part] << DRAW_SHIFT | block
        counter = [sample % 2**32, sample // 2**32, site, draw]
        expected += philox_of_integers(counter, [seed % 2**32, seed // 2**32])
    result = words(seed, np.array([sample], dtype=np.uint64), site, part, count)
    assert result.shape == (1, count)
    assert result[0].tolist() == expected[:count]


@given(UINT32, st.integers(0, 2**40), st.integers(0, 20), st.integers(1, 20))
def test_words_do_not_depend_on_the_chunk(seed: int, start: int, skip: int, size: int) -> None:
    whole = words(seed, sample_indices(skip + size, start), 3, "sign", 5)
    part = words(seed, sample_indices(size, start + skip), 3, "sign", 5)
    assert np.array_equal(whole[skip:], part)


def test_seeds_sites_parts_and_samples_draw_different_words() -> None:
    # A collision of two 128-bit draws has probability 2^-128: any equality is a wrong counter.
    streams = [
        tuple(words(seed, np.array([sample], dtype=np.uint64), site, part, 4)[0].tolist())
        for seed in (0, 1, 2**32, 2**63)
        for sample in (0, 1, 2**32)
        for site in (0, 1)
        for part in DRAW_PART
    ]
    assert len(set(streams)) == len(streams)


def test_the_parts_of_the_draw_index_cannot_overlap() -> None:
    assert len(set(DRAW_PART.values())) == len(DRAW_PART)
    assert max(DRAW_PART.values()) < 1 << (32 - DRAW_SHIFT)


def test_uniforms_are_centred_in_their_cells() -> None:
    assert uniforms(np.array([0, 1, 2**32 - 1], dtype=np.uint32)).tolist() == [2.0**-33, 3 * 2.0**-33, 1 - 2.0**-33]


@given(UINT32, UINT32)
def test_normals_are_box_muller(x0: int, x1: int) -> None:
    u0, u1 = (x0 + 0.5) / 2**32, (x1 + 0.5) / 2**32
    radius = math.sqrt(-2 * math.log(u0))
    expected = [radius * math.cos(2 * math.pi * u1), radius * math.sin(2 * math.pi * u1)]
    result = normals(np.array([x0, x1], dtype=np.uint32))
    assert np.all(np.isfinite(result))
    # sqrt, log and cos are a few ulp each; the argument 2 pi u1 is rounded once.
    np.testing.assert_allclose(result, expected, rtol=1e-14, atol=1e-14)


def test_the_last_sample_index_is_reachable() -> None:
    assert sample_indices(2, 2**64 - 2).tolist() == [2**64 - 2, 2**64 - 1]
    with pytest.raises(ValueError, match=r"start: expected start \+ n <= 2\^64"):
        sample_indices(2, 2**64 - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: philox4x32([0, 0, 0], [0, 0]), r"counter: expected shape \(\.\.\., 4\), got \(3,\)"),
        (lambda: philox4x32([0, 0, 0, 0], [0]), r"key: expected shape \(2,\), got \(1,\)"),
        (lambda: words(0, sample_indices(1), 0, "color", 1), "part: expected one of .*got 'color'"),
        (lambda: words(-1, sample_indices(1), 0, "sign", 1), r"seed: expected 0 <= seed < 2\^64, got -1"),
        (lambda: words(2**64, sample_indices(1), 0, "sign", 1), "seed: expected"),
        (lambda: words(0, sample_indices(1), 0, "sign", 2**31), "count: a part draws at most 1073741824 words"),
        (lambda: sample_indices(-1), "n: expected a number of elements >= 0, got -1"),
        (lambda: sample_indices(1, -1), r"start: expected 0 <= start < 2\^64, got -1"),
    ],
)
def test_wrong_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_a_seed_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"seed: expected an integer, got 1.5 of type float"):
        words(1.5, sample_indices(1), 0, "sign", 1)  # type: ignore[arg-type]
