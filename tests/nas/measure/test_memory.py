"""Bisection finds what fits, and errors of memory are told from others."""

import mmap

import pytest
import torch

from nas.measure.memory import largest_fitting, out_of_memory
from nas.measure.runtimes.contract import arm_errors
from tests.nas.error_texts import CAUSES, LOST_CONNECTIONS, OUT_OF_MEMORY, OUT_OF_MEMORY_OF_A_FULL_CARD


def test_bisection_finds_the_largest_that_fits():
    assert [largest_fitting(lambda n, limit=limit: n <= limit, 0, 8) for limit in range(8)] == [*range(8)]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_memory_ends_in_many_libraries(text):
    assert out_of_memory(RuntimeError(text))
    with pytest.raises(torch.OutOfMemoryError), arm_errors("any", RuntimeError):
        raise RuntimeError(text)


@pytest.mark.parametrize(("free_gib", "full"), [(0.4, True), (2.5, True), (2.7, False), (70, False)])
@pytest.mark.parametrize("text", OUT_OF_MEMORY_OF_A_FULL_CARD)
def test_an_ambiguous_text_means_memory_on_a_full_card(text, free_gib, full, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(free_gib * 2**30), 80 * 2**30))
    assert out_of_memory(RuntimeError(text)) is full


@pytest.mark.parametrize("text", [*OUT_OF_MEMORY_OF_A_FULL_CARD, *CAUSES, *LOST_CONNECTIONS])
def test_without_a_card_that_is_full_other_texts_are_no_lack_of_memory(text):
    assert not out_of_memory(RuntimeError(text))


def test_only_memory_counts_as_memory():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    with pytest.raises(OSError, match="Cannot allocate memory") as mapped:
        mmap.mmap(-1, 1 << 60)
    assert out_of_memory(mapped.value)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)
