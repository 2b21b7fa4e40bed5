"""Small caches of real teachers on real images, in shards of 16. Weights are real too; tests skip without them."""

import pytest

from nas.cache import open_targets
from nas.teachers import TeacherError, specs
from tests.nas.cache.builder import SIZES


@pytest.fixture(autouse=True, scope="package")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.cache.entry.SHARD_ITEMS", 16)
        yield


@pytest.fixture(scope="session")
def teachers():
    try:
        return {spec.name: spec.load() for spec in specs("xfeat,lite0")}
    except TeacherError as error:
        pytest.skip(f"no teacher weights: {error}")


@pytest.fixture
def opened(teachers):
    """Function (root, **changes) -> targets of XFeat on 48 + 20 composites."""

    def call(root, uri="builtin", names="xfeat", **changes):
        return open_targets(uri, names, root=root, **{**SIZES, **changes})

    return call


@pytest.fixture(scope="package")
def built(tmp_path_factory, teachers):
    """A cache of Lite0 and XFeat that tests don't change, and the lines announced during its build."""
    announced = []
    root = tmp_path_factory.mktemp("cache")
    return open_targets("builtin", "lite0,xfeat", root=root, announce=announced.append, **SIZES), announced
