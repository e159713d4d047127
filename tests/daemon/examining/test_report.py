import json

from aiokpl_metricsd.examining.examination import Found
from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn
from aiokpl_metricsd.examining.report import choose_status, encode_report, render_report

WELL = Found("kernel", find_ok("lanes"))
WARNED = Found("state", warn("in memory", "put it on a disk"))
FAILED = Found("sink cw", fail("no connection", "look at the port"))


def list_found(*found: Found) -> list[Found]:
    return list(found)


def test_the_worst_finding_is_the_exit_status() -> None:
    assert choose_status([]) == 0
    assert choose_status([WELL]) == 0
    assert choose_status([WELL, WARNED]) == 1
    assert choose_status([FAILED, WELL, WARNED]) == 2


def test_people_get_a_line_for_each_finding_and_what_to_do_below() -> None:
    assert render_report([WELL, WARNED, FAILED]).splitlines() == [
        "ok       kernel   lanes",
        "warning  state    in memory",
        "                  -> put it on a disk",
        "failure  sink cw  no connection",
        "                  -> look at the port",
        "1 ok, 1 warning, 1 failure",
    ]


def test_no_terminal_obeys_what_a_backend_says() -> None:
    assert "\x1b" not in render_report([Found("sink cw", Finding(FAILED.finding.outcome, "\x1b[2J"))])


def test_programs_get_one_object() -> None:
    answer = json.loads(encode_report([WELL, WARNED]))
    assert answer == {
        "outcome": "warning",
        "findings": [
            {"check": "kernel", "outcome": "ok", "message": "lanes", "advice": ""},
            {"check": "state", "outcome": "warning", "message": "in memory", "advice": "put it on a disk"},
        ],
    }
