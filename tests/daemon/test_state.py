"""What sinks remember across an orderly restart."""

import logging
import os
from pathlib import Path

import pytest

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.null import NullSink
from aiokpl_metricsd.state import StateFolder, check_state_dir


class Remembering(NullSink):
    """Remembers one number."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def dump_state(self) -> bytes:
        return str(self.number).encode()

    def load_state(self, state: bytes) -> None:
        self.number = int(state)


def test_a_sink_goes_on_from_what_the_last_daemon_kept(tmp_path: Path) -> None:
    StateFolder(str(tmp_path)).keep([("a/b", Remembering(7)), ("other", NullSink())])
    sink = Remembering()
    StateFolder(str(tmp_path)).recall("a/b", sink)
    assert sink.number == 7


def test_what_was_recalled_is_not_recalled_again_unless_kept_again(tmp_path: Path) -> None:
    folder = StateFolder(str(tmp_path))
    folder.keep([("a", Remembering(7))])
    folder.recall("a", Remembering())
    killed = Remembering()
    folder.recall("a", killed)
    assert killed.number == 0


def test_without_a_state_directory_nothing_is_remembered() -> None:
    folder = StateFolder(None)
    folder.keep([("a", Remembering(7))])
    sink = Remembering()
    folder.recall("a", sink)
    assert sink.number == 0


def test_a_damaged_file_is_said_and_the_sink_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StateFolder(str(tmp_path))
    folder.keep([("a", Remembering(7))])
    (file,) = (tmp_path / "sinks").iterdir()
    file.write_bytes(b"no number")
    sink = Remembering()
    with caplog.at_level(logging.WARNING):
        folder.recall("a", sink)
    assert sink.number == 0
    assert "begin anew" in caplog.text


def test_a_sink_that_cannot_say_its_state_costs_only_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Remembering):
        def dump_state(self) -> bytes:
            raise RuntimeError("no")

    folder = StateFolder(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        folder.keep([("bad", Failing()), ("good", Remembering(3))])
    sink = Remembering()
    folder.recall("good", sink)
    assert sink.number == 3
    assert "bad" in str(caplog.records[0].__dict__["fields"])


def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    StateFolder(str(tmp_path / "state")).keep([("a", Remembering(7))])
    made = tmp_path / "state" / "sinks"
    assert made.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in made.iterdir()] == [0o600]


@pytest.mark.parametrize("below", ["file", "file/deeper/still", "\0", "n" * 300])
def test_a_directory_that_cannot_be_made_is_one_line_and_the_check_has_the_same(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    lines: set[str] = set()
    for refuse in (StateFolder, check_state_dir):
        with pytest.raises(ConfigurationError, match=r"state_dir: .* cannot be made: .") as caught:
            refuse(str(tmp_path / below))
        lines.add(str(caught.value))
    (line,) = lines
    assert line.isprintable()


@pytest.mark.parametrize("below", ["", "some/where/new"])
def test_the_check_of_a_directory_makes_nothing(tmp_path: Path, below: str) -> None:
    check_state_dir(str(tmp_path / below))
    check_state_dir(None)
    assert list(tmp_path.iterdir()) == []


def test_the_check_knows_a_directory_that_is_there(tmp_path: Path) -> None:
    StateFolder(str(tmp_path))
    check_state_dir(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_the_check_sees_where_this_user_may_not_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        check_state_dir(str(tmp_path / "state"))
