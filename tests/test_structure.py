"""The code's names and imports lead to one place each."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.structure import Structure, read

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def nas() -> Structure:
    return read(ROOT, ["nas"])


@pytest.fixture(scope="module")
def product() -> Structure:
    return read(ROOT)


def test_no_class_name_occurs_twice(nas: Structure) -> None:
    assert nas.recurring_classes == {}


def test_no_module_name_occurs_twice_outside_the_conventional_ones(nas: Structure) -> None:
    assert nas.recurring_modules == {}


def test_no_modules_import_each_other(product: Structure) -> None:
    assert product.all_cycles == []


def test_no_function_is_over_the_limit(product: Structure) -> None:
    assert product.long_functions == []
