"""Names and dimensions -> metric names and tags that Datadog takes as they are. Pure.

What Datadog would change on arrival is changed here, by the same rules, so that what arrives is what was
sent: two series that only become equal there would overwrite each other, and nobody would know. Where the
documents leave a case open, the stricter reading holds, since it costs a distinction and the other would
cost a value.

A **name** begins with a letter and consists of ASCII letters, digits, `_` and `.`; every other character
becomes `_`. Underscores are not doubled, do not stand beside a period and do not end a name. A name that
begins otherwise gets `m_` in front. A **tag** is `key:value` in lower case, of letters and digits of any
script and `_ - : . /`; every other character becomes `_`, and so does a colon in the key. Underscores are
not doubled; neither they nor colons end a tag, so a dimension without a value is the key alone. A key that
does not begin with a letter gets `tag_` in front. What is longer than 200 characters is cut and ends in `_`
and 16 digits of the whole text's hash, so that cutting makes no two series equal.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

# "Naming custom metrics" (DataDog/documentation, content/en/metrics/custom_metrics/_index.md, read 2026-11).
MAX_NAME_CHARS: Final = 200

# "Define tags" (the same, content/en/getting_started/tagging/_index.md, read 2026-11).
MAX_TAG_CHARS: Final = 200

# What becomes of underscores is in no document: these are the rules by which the agent normalises names, as
# the intake does (DataDog/datadog-agent, NormMetricNameParse, read 2026-11). Tags are held to the same.
_NO_NAME_CHAR = re.compile(r"[^A-Za-z0-9_.]")
_BESIDE_PERIOD = re.compile(r"_*\._*")
_UNDERSCORES = re.compile(r"__+")
_ALNUM = re.compile(r"[A-Za-z0-9]")

_TAG_PUNCTUATION = frozenset("_-:./")
_PLAIN_TAG = re.compile(r"[a-z0-9_\-:./]*")

_DIGEST_CHARS = 16


@lru_cache(maxsize=4096)
def encode_name(prefix: str, name: str) -> str:
    """Return the metric name; empty where none of the name's characters can stay.

    Args:
        prefix: the operator's; part of every name.
        name: the series' own.
    """
    if not _ALNUM.search(name):
        return ""
    mended = _UNDERSCORES.sub("_", _BESIDE_PERIOD.sub(".", _NO_NAME_CHAR.sub("_", prefix + name))).rstrip("_")
    if not mended[0].isalpha():
        mended = "m_" + mended.lstrip("_.")
    return cut_name(mended, prefix + name)


def cut_name(name: str, whole: str) -> str:
    """Return the name, no longer than Datadog takes; `whole` is what tells it from others."""
    return name if len(name) <= MAX_NAME_CHARS else _cut(name, MAX_NAME_CHARS, whole)


def encode_tags(pairs: Iterable[tuple[str, str]], constant: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the tags in order, each once: a set, which is what they are to Datadog.

    Args:
        pairs: dimensions.
        constant: tags of every series, encoded already.
    """
    return tuple(sorted({*constant, *(encode_tag(key, value) for key, value in pairs)}))


@lru_cache(maxsize=16_384)
def encode_tag(key: str, value: str) -> str:
    """Return the tag of one dimension."""
    mended_key = _UNDERSCORES.sub("_", _mend_tag(key).replace(":", "_"))
    if not mended_key[:1].isalpha():
        mended_key = f"tag_{mended_key.lstrip('_-./')}".rstrip("_")
    tag = f"{mended_key}:{_mend_tag(value)}".rstrip("_:")
    return tag if len(tag) <= MAX_TAG_CHARS else _cut(tag, MAX_TAG_CHARS, f"{key}\0{value}")


def split_tag(text: str) -> tuple[str, str]:
    """Return key and value of a tag as an operator writes it."""
    key, _, value = text.strip().partition(":")
    return key, value


def _mend_tag(text: str) -> str:
    lowered = text.lower()
    if not _PLAIN_TAG.fullmatch(lowered):
        lowered = "".join(
            c if c in _TAG_PUNCTUATION or c.isalpha() or c.isdecimal() else "_" for c in lowered
        )
    return _UNDERSCORES.sub("_", lowered) if "__" in lowered else lowered


def _cut(text: str, max_chars: int, whole: str) -> str:
    digest = blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_CHARS // 2).hexdigest()
    return f"{text[: max_chars - _DIGEST_CHARS - 1].rstrip('_.')}_{digest}"


__all__ = [
    "MAX_NAME_CHARS",
    "MAX_TAG_CHARS",
    "cut_name",
    "encode_name",
    "encode_tag",
    "encode_tags",
    "split_tag",
]
