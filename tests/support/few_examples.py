"""`pytest -p tests.support.few_examples`: a fifth of the examples of each property; others try them all."""

from hypothesis import settings

settings.register_profile("few", max_examples=20, deadline=None)
settings.load_profile("few")
