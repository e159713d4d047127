"""What has come since the metrics page was last read."""

from aiokpl_metricsd.serving.scrape import Scrapes, Unread


class Counts:
    """A clock and two counts that a test moves."""

    def __init__(self) -> None:
        self.now, self.events, self.snapshots = 100.0, 7, 3
        self.scrapes = Scrapes(lambda: (self.events, self.snapshots), lambda: self.now)
        self.scrapes.reset()

    def move(self, seconds: float, events: int, snapshots: int) -> None:
        self.now += seconds
        self.events += events
        self.snapshots += snapshots


def test_where_nobody_has_read_all_that_came_since_the_start_is_unread() -> None:
    counts = Counts()
    assert counts.scrapes.read() == Unread(None, 0, 0)
    counts.move(5.0, 4, 2)
    assert counts.scrapes.read() == Unread(None, 4, 2)


def test_what_comes_while_a_page_is_made_is_unread() -> None:
    counts = Counts()
    counts.move(5.0, 4, 2)
    reading = counts.scrapes.begin()
    counts.move(1.0, 10, 1)
    counts.scrapes.note(reading)
    counts.move(2.0, 0, 0)
    assert counts.scrapes.read() == Unread(3.0, 10, 1)


def test_of_two_pages_the_one_that_was_begun_last_counts_whichever_ends_first() -> None:
    counts = Counts()
    first = counts.scrapes.begin()
    counts.move(1.0, 10, 1)
    second = counts.scrapes.begin()
    counts.scrapes.note(second)
    counts.scrapes.note(first)
    assert counts.scrapes.read() == Unread(0.0, 0, 0)


def test_a_page_that_is_read_before_anything_has_come_is_a_scrape_all_the_same() -> None:
    counts = Counts()
    counts.scrapes.note(counts.scrapes.begin())
    counts.move(2.0, 1, 0)
    assert counts.scrapes.read() == Unread(2.0, 1, 0)
