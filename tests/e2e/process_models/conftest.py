"""A real daemon, for programs of every kind."""

import pytest

from tests.support.child import Nursery
from tests.support.models import Models


@pytest.fixture
def models(nursery: Nursery) -> Models:
    """A daemon with lanes."""
    return Models(nursery)
