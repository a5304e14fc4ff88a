"""The faults of a campaign. Each is a step, which is repeated while the processes are under load."""

import os
import random
import shutil
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kafka import KafkaAdminClient

from headrace.errors import BlobCorrupt
from headrace.log.open import open_log
from headrace.log.protocol import Outgoing
from headrace.shard import journal
from headrace.shard.blobs import Blobs
from headrace.topics import EVENTS
from tests.chaos.brokers import Brokers
from tests.chaos.shop import ROLES, Shop
from tests.chaos.verbs import Verbs
from tests.chaos.violation import Violation

PAGE: Final = 4_096
disk_mib: Final = 64
progress_s_max: Final = 60.0
"""Maximum time, in seconds, to wait for what must happen although a fault was active a moment ago."""


@dataclass
class Round:
    """What a fault works on: the shop's processes, a source of chance, the brokers (on Kafka), and a count by name.

    `over` is set by a fault after which there is nothing left to audit.
    """

    shop: Shop
    chance: random.Random
    brokers: Brokers | None
    done: Counter[str] = field(default_factory=Counter)
    over: bool = False

    def __post_init__(self) -> None:
        self.verbs = Verbs(self.shop, self.chance, self.done)

    def kill_some(self) -> None:
        """Kill between one and all processes at once."""
        self.shop.kill(self.chance.sample(ROLES, self.chance.randint(1, len(ROLES))))

    def pause(self, longest_s: float) -> None:
        """Let the processes run for a random time, in seconds."""
        self.shop.run(self.chance.uniform(0, longest_s))

    def node(self) -> int:
        """Return one of the brokers."""
        assert self.brokers
        return self.chance.choice(self.brokers.nodes)


def kill(now: Round) -> None:
    """SIGKILL at a random moment, of one to all processes."""
    now.pause(1.2)
    now.shop.spoil(sum(now.done.values()))
    now.kill_some()


def verbs(now: Round) -> None:
    """SIGKILL at a random moment, of a verb that works beside all processes, and of some of these."""
    now.pause(0.5)
    now.verbs.spoil(sum(now.done.values()))
    now.verbs.kill_one()
    if now.chance.random() < 0.5:
        now.kill_some()


def broker(now: Round) -> None:
    """A broker is killed, stopped, or paused; of three, the leaders of its partitions change."""
    assert now.brokers
    now.pause(1.5)
    node, how = now.node(), now.chance.choice(("killed", "stopped", "paused"))
    now.done[f"broker {how}"] += 1
    if how == "paused":
        now.brokers.signal(node, signal.SIGSTOP)
        now.pause(6)
    else:
        (now.brokers.kill if how == "killed" else now.brokers.stop)(node)
        now.pause(3)
    if now.chance.random() < 0.5:
        now.kill_some()
    now.brokers.heal()
    _progress(now)


def network(now: Round) -> None:
    """The network to a broker is cut, silent, slow, narrow, or resets connections in the middle of an answer."""
    assert now.brokers
    now.pause(1)
    proxy, how = now.brokers.proxies[now.node()], now.chance.choice(("cut", "silent", "delay", "narrow", "reset"))
    now.done[f"network {how}"] += 1
    if how == "cut":
        proxy.cut = True
    elif how == "silent":
        proxy.silent = True
    elif how == "delay":
        proxy.delay_s = now.chance.uniform(0.01, 0.3)
    elif how == "narrow":
        proxy.bytes_per_s = 20_000
    else:
        proxy.reset_after = now.chance.randrange(100, 20_000)
    now.pause(5)
    if now.chance.random() < 0.5:
        now.kill_some()
    now.brokers.heal()
    _progress(now)


def _progress(now: Round) -> None:
    """Wait for a new entry, unless all is published."""
    shop, before = now.shop, now.shop.entries()
    shop.run(progress_s_max, lambda: shop.published or shop.entries() > before)
    if not shop.published and shop.entries() == before:
        raise Violation(f"no new journal entry within {progress_s_max:.0f} s after the fault had ended")


def zombie(now: Round) -> None:
    """A process of a shard stands still while another one takes over, and wakes up: it must end, fenced."""
    shop, role = now.shop, now.chance.choice(("online", "finetune"))
    now.pause(1)
    old = shop.processes.pop(role, None)
    if old is None or old.code is not None:
        return
    old.signal(signal.SIGSTOP)
    now.done["zombie"] += 1
    shop.start(role)
    _progress(now)
    now.pause(1)
    old.signal(signal.SIGCONT)
    if now.chance.random() < 0.5:
        now.kill_some()
    # Without anything to learn it would commit nothing, and so not notice that it was fenced.
    shop.run(progress_s_max, lambda: old.code is not None or shop.published)
    if old.code is None:
        old.kill()
    elif old.code != 1 or not any(word in old.text for word in ("Fenced: ", "CommitExpired: ")):
        raise Violation(f"a {role} that was replaced ended with exit code {old.code}: {old.text[-2_000:]}")


def snapshots(now: Round) -> None:
    """A byte of the newest snapshot is flipped in each page: each copy is refused; a restart goes on from a former."""
    shop = now.shop
    before = _snapshots_in(shop)
    shop.run(progress_s_max, lambda: shop.published or _snapshots_in(shop)[-1:] != before[-1:])
    now.pause(0.5)
    shop.put_down(["online"])
    found = _snapshots_in(shop)
    if len(found) < 2:  # there is no former one to go back to
        return
    path = found[-1]
    good = path.read_bytes()
    copies = shop.folder / "flipped"
    copies.mkdir(exist_ok=True)
    for at in range(0, len(good), PAGE):
        (copies / path.name).write_bytes(_flipped(good, at, now.chance))
        try:
            Blobs(copies).get(path.name)
        except BlobCorrupt:
            now.done["page flipped"] += 1
        else:
            raise Violation(f"{path.name}: a flipped bit in the page at {at} was not noticed")
    path.write_bytes(_flipped(good, now.chance.randrange(len(good)), now.chance))
    try:
        _progress(now)
    finally:
        path.write_bytes(good)


def _snapshots_in(shop: Shop) -> list[Path]:
    """Return the blobs of the snapshots of `online`, oldest first."""
    found: dict[Path, int] = {}
    for path in (shop.folder / "blobs").glob("online-*"):
        with suppress(FileNotFoundError):  # the shard has deleted it meanwhile
            if path.suffix != ".part":
                found[path] = path.stat().st_mtime_ns
    return sorted(found, key=lambda path: found[path])


def _flipped(data: bytes, page: int, chance: random.Random) -> bytes:
    at = min(len(data) - 1, page + chance.randrange(PAGE))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def disk(now: Round) -> None:
    """The disk of the log, the blobs and the processes' own output is full, and has room again."""
    now.pause(1.5)
    filler = now.shop.folder / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(PAGE))
        except OSError:
            now.done["disk full"] += 1
    now.pause(2)
    if now.chance.random() < 0.5:
        now.kill_some()
        now.pause(1)
    filler.unlink()
    _progress(now)


def clock(now: Round) -> None:
    """The clock of `online` jumps, forwards and back, while it runs."""
    shop, file = now.shop, now.shop.folder / "clock"
    now.pause(1)
    shop.put_down(["online"])
    file.write_bytes(struct.pack("q", 0))
    preloaded = {"LD_PRELOAD": str(build_clock(shop.folder)), "CHAOS_CLOCK": str(file)}
    shop.start("online", environ=preloaded)
    _progress(now)
    for _ in range(4):
        with file.open("r+b") as opened:
            opened.write(struct.pack("q", now.chance.choice((3_600, -3_600, -172_800, 86_400, 0))))
        now.done["clock jump"] += 1
        now.pause(1.5)


def build_clock(folder: Path) -> Path:
    """Compile the library that gives a process another clock; return its path."""
    library = folder / "clock.so"
    if not library.exists():
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    return library


def topics(now: Round) -> None:
    """The topic of events is deleted, made again and refilled past the old positions: `online` must refuse it.

    The round ends with that, as there is nothing left to audit.
    """
    shop = now.shop
    online = shop.deployment.placement("online").shard
    with closing(open_log(shop.url)) as log:
        shop.run(progress_s_max, lambda: journal.newest(log, online) is not None)
    now.pause(3)
    for process in shop.processes.values():
        process.kill()
    shop.processes.clear()
    servers, _, prefix = shop.url.removeprefix("kafka:").partition("?prefix=")
    with closing(KafkaAdminClient(bootstrap_servers=servers.split(","))) as admin:
        admin.delete_topics([prefix + EVENTS])
    with closing(open_log(shop.url)) as log:
        log.create()
        with closing(log.appender()) as appender:
            for number in range(4 * len(shop.expected)):
                appender.append(Outgoing(EVENTS, b"%d" % number, b"{}"))
    now.done["topic made again"] += 1
    now.over = True
    process = shop.start("online")
    if process.join(progress_s_max) not in (1, 2) or EVENTS not in process.text.rpartition("headrace: ")[2]:
        process.kill()
        raise Violation(f"online did not refuse a topic that was made again: {process.text[-2_000:]}")


FAULTS: Final[dict[str, Callable[[Round], None]]] = {
    one.__name__: one for one in (kill, verbs, broker, network, disk, clock, snapshots, zombie, topics)
}
ON_KAFKA: Final = {"broker", "network", "topics"}
BY_NAME_ONLY: Final = {"topics"}
"""Faults that run only if `--faults` names them."""
ON_SQLITE: Final = {"disk"}
"""Kafka has a disk of its own, whose fullness is the broker's affair."""


def can_mount() -> bool:
    """Return whether this process may mount a file system of limited size."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


def missing(fault: str) -> str:
    """Return what a fault needs and this machine lacks, "" if nothing."""
    if fault == "clock" and not shutil.which("cc"):
        return "needs a C compiler: apt-get install gcc libc6-dev"
    if fault == "disk" and not can_mount():
        return "needs root, to mount a small file system"
    return ""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount an empty file system of `disk_mib` MiB on a folder during a block, and keep a copy of what it held."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "headrace-chaos", str(folder)], check=True)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        yield
