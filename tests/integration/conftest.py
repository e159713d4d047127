"""Fixtures of the integration tests: those of the end-to-end tests."""

from tests.e2e.conftest import directory, nursery

__all__ = ["directory", "nursery"]
