"""The words on the setting of a timing."""

from __future__ import annotations

from dataclasses import replace

from nas.analysis.comparable import setting_words
from nas.analysis.trial_choice import measurement
from tests.nas.analysis.builders import small_study


def test_words_of_a_setting_name_the_threads_once() -> None:
    m = measurement(small_study().trials[0])
    cpu = replace(m, device="AMD EPYC, 1 threads", arm="fp32, eager, 1 thread(s)", batch=16)
    assert setting_words(cpu) == "AMD EPYC; fp32, eager; 1 measuring thread; batch 16"
    assert setting_words(replace(cpu, arm="fp32, eager, 3 thread(s)")).count("3 measuring threads") == 1
    assert (
        setting_words(replace(cpu, device="NVIDIA H100", arm="compiled, bf16"))
        == "NVIDIA H100; compiled, bf16; batch 16"
    )
