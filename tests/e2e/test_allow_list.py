"""Users, listed and not, with the real client: who may not send is counted, named, and unharmed."""

import os

import msgspec

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.rows import check_balance
from tests.support.stranger import needs_root, send_as

ROWS = encode(EventsFrame([MetricEvent("rows", 1.0, 0.0)]))
LISTED, UNLISTED, GROUP = 4001, 4002, 4003

# An application of another user: user, supplementary groups, socket. It imports first, since another user may
# not read what is installed.
APPLICATION = """
import os, select, socket, sys
from aiokpl_metrics_client import MetricsClient
os.setgroups([int(text) for text in sys.argv[2].split()])
os.setresgid(4999, 4999, 4999)
os.setresuid(*[int(sys.argv[1])] * 3)
client = MetricsClient(sys.argv[3])
for _ in range(100):
    client.put("UserRecordsPut", 1.0)
print(client.flush(timeout_s=20.0), client.statistics().transport)
client.close()
"""


class Told(msgspec.Struct):
    """Of the daemon's last line, what became of lanes and datagrams."""

    lanes_accepted: int = 0
    lanes_refused: dict[str, int] = {}
    datagrams_decoded: int = 0
    datagrams_rejected: dict[str, int] = {}


def start(nursery: Nursery, allowed: str) -> DaemonProcess:
    """Start a daemon with lanes, to whose sockets everybody may write, but who may send is listed."""
    nursery.directory.chmod(0o711)
    top = f'state_dir = "{nursery.directory}/state"'
    ingest = f'mode = "0666"\n{allowed}'
    return DaemonProcess(nursery, top=top, ingest=ingest, interval_s=3600).wait_until_listening()


def put_as(nursery: Nursery, daemon: DaemonProcess, uid: int, *groups: int) -> str:
    """Have an application of another user put a hundred events; return what its client says at the end."""
    words = [str(uid), " ".join(map(str, groups)), str(daemon.socket_path)]
    application = nursery.start_python("-c", APPLICATION, *words)
    assert application.wait() == 0, application.stderr
    assert application.stderr == ""
    return application.stdout.strip()


def stop(daemon: DaemonProcess) -> Told:
    """End the daemon; its accounts balance."""
    assert daemon.stop() == 0
    check_balance(daemon.ledger)
    last = daemon.log[-1]
    return msgspec.convert(last, Told)


def read_refusals(daemon: DaemonProcess) -> list[object]:
    """Return the users that the log names as refused."""
    return [line["uid"] for line in daemon.log if line["message"].startswith("refused what came from")]


@needs_root
def test_of_two_applications_the_listed_one_counts_and_the_other_ends_in_order_all_the_same(
    nursery: Nursery,
) -> None:
    daemon = start(nursery, f"allow_uids = [{LISTED}]")
    assert put_as(nursery, daemon, LISTED) == "True lane"
    # Refused on the lane, it goes to the front door, which answers nobody.
    assert put_as(nursery, daemon, UNLISTED) == "True front_door"
    told = stop(daemon)
    assert daemon.count_events() == 100
    assert told.lanes_accepted == 1
    assert told.lanes_refused.keys() == told.datagrams_rejected.keys() == {"not_allowed"}
    assert read_refusals(daemon) == [UNLISTED]


@needs_root
def test_a_supplementary_group_counts_on_a_lane_and_the_front_door_knows_only_the_senders_own(
    nursery: Nursery,
) -> None:
    daemon = start(nursery, f"allow_gids = [{GROUP}]")
    assert put_as(nursery, daemon, UNLISTED, GROUP) == "True lane"
    assert send_as(daemon.socket_path, [ROWS] * 2, uid=UNLISTED, gid=GROUP) == ""
    assert send_as(daemon.socket_path, [ROWS] * 3, uid=UNLISTED, gid=UNLISTED, groups=(GROUP,)) == ""
    told = stop(daemon)
    assert daemon.count_events() == 100 + 2
    assert told.lanes_refused == {}
    assert told.datagrams_rejected == {"not_allowed": 3}


def test_the_daemons_own_user_is_no_exception(nursery: Nursery) -> None:
    daemon = start(nursery, f"allow_uids = [{os.getuid() + 1}]")
    send_datagram(daemon.socket_path, ROWS)
    told = stop(daemon)
    assert (told.datagrams_decoded, told.datagrams_rejected) == (0, {"not_allowed": 1})
    assert read_refusals(daemon) == [os.getuid()]
