# SPDX-License-Identifier: MIT
"""The table of who lives.

Facts:
- FORK precedes everything of the child; EXIT is sent after the parent may have reaped, so that the PID's next FORK
  can come before it [kernel/exit.c, do_exit()].
- EXIT of the leader is not the end of the process: it ends with its last task. An exec by another thread ends all
  others, and the leader's id lives on [fs/exec.c, de_thread()].
- A child's start time is taken a moment before its FORK's timestamp [kernel/fork.c, copy_process()].

- FORK names the parent that the child has, also where that is not who called clone(2) (CLONE_PARENT): then the child
  is a copy of somebody else.

So the table keeps, by tgid, the life that is going on, with the ids of its tasks once there is more than one. A parent
that ended stays as long as its children refer to it; chains of ended ones are cut at `ANCESTOR_LIMIT`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from procwatchd.kernel.clock import Clock
from procwatchd.kernel.taskstats import TaskEnd
from procwatchd.kernel.wire import COMM, EXEC, FORK, GID, UID, RawEvent
from procwatchd.process.model import (
    ANCESTOR_LIMIT,
    GONE_IMAGE,
    REUSED_IMAGE,
    UNKNOWN_CONTEXT,
    UNKNOWN_IMAGE,
    Creds,
    Image,
    Process,
)
from procwatchd.process.procfs import Ids, NotRead, Reader, Reading
from procwatchd.process.users import Users

# The memory that long argument vectors of the living may take together: a user can start many.
LONG_ARGV_BYTES = 4096
LONG_ARGV_TOTAL_BYTES = 64 << 20


@dataclass(slots=True)
class Account:
    """The bytes of long arguments that are held."""

    held_bytes: int = 0


class LongImage(Image):
    """An image with long arguments; the account is settled when the last holder lets go of it."""

    __slots__ = ("account",)

    account: Account

    def __del__(self) -> None:
        self.account.held_bytes -= len(self.argv or b"")


class Table:
    """The living, by tgid. One thread uses it.

    `argv_cut` counts argument vectors cut for `LONG_ARGV_TOTAL_BYTES`, `chains_cut` lines of ancestors cut
    for `ANCESTOR_LIMIT`. Of lives from before `lost_ns` events may be lost (0: none was).
    """

    KEPT = (
        "lost_ns",
        "_unsure_ns",
        "_long_argv",
        "_living",
        "_displaced",
        "_left",
        "_numbers",
        "_numbers_before",
        "_numbers_tick",
    )

    def __init__(self, clock: Clock, users: Users) -> None:
        self.argv_cut = 0
        self.chains_cut = 0
        self._long_argv = Account()
        self.lost_ns = 0
        # Of lives from before then the EXIT may be lost.
        self._unsure_ns = 0
        self._clock = clock
        self._users = users
        self.unknown_creds = Creds(None, None, None, None, users)
        self._living: dict[int, Process] = {}
        # Lives whose PID was given away before their EXIT came, oldest first.
        self._displaced: dict[int, list[Process]] = {}
        # Lives that must have ended, as another one has their PID, and whose EXIT was lost most likely.
        self._left: list[Process] = []
        # How many lives began with a PID and start, of the last two ticks in which any began.
        self._numbers: dict[tuple[int, int], int] = {}
        self._numbers_before: dict[tuple[int, int], int] = {}
        self._numbers_tick = 0

    def __len__(self) -> int:
        return len(self._living)

    def get(self, tgid: int) -> Process | None:
        """The life that goes on under this id, as far as known."""
        return self._living.get(tgid)

    @staticmethod
    def stranger(tgid: int) -> Process:
        """A process of which nothing but its id is known."""
        return Process(tgid, None, None, None, None, UNKNOWN_IMAGE, UNKNOWN_CONTEXT, None)

    def parent_of(self, record: TaskEnd, ended_ns: int) -> Process | None:
        """Who was the parent of a task when it ended: whoever has that id, if that one began before it."""
        parent = self._living.get(record.ppid)
        began = self._clock.start_ticks(ended_ns - 1000 * record.process_elapsed_usec)[1]
        return None if parent is None or (parent.start_ticks or 0) > began else parent

    def scan(self, reader: Reader) -> None:
        """Fill the table with who is there now; for the time after the ACK, before the first event."""
        readings = [
            (pid, reading) for pid in reader.pids() if isinstance(reading := reader.look(pid), Reading)
        ]
        readings.sort(key=lambda item: item[1].stat.start_ticks)
        for pid, reading in readings:
            if not reading.stat.has_ended and pid not in self._living:
                self._add_scanned(pid, reading, reader)
        self.adopt_orphans()

    def adopt_orphans(self) -> None:
        """Give those their parents whose parents were found after them, and these' tags to all below."""
        gained: dict[Process, tuple[str, ...]] = {}
        for process in self._living.values():
            if process.parent is None and process.ppid:
                parent = self._living.get(process.ppid)
                if parent is not None and (parent.start_ticks or 0) <= (process.start_ticks or 0) + 1:
                    process.parent = parent
                    gained[process] = parent.tags
        if any(gained.values()):
            self._hand_down(gained)

    def _hand_down(self, gained: dict[Process, tuple[str, ...]]) -> None:
        """Have these processes, and all below them, the tags that these have gained; in one pass for all."""
        for process in self.all():
            from_parent = () if process.parent is None else gained.get(process.parent, ())
            tags = dict.fromkeys((*gained.get(process, ()), *from_parent))
            if tags:
                process.add_tags(tags)
                gained[process] = tuple(tags)

    def fork(self, parent_tgid: int, tgid: int, timestamp_ns: int) -> Process:
        """A process was forked: what it is, it inherits."""
        living = self._living
        earliest, latest = self._clock.start_ticks(timestamp_ns)
        start_ticks = earliest if earliest == latest else None
        parent = living.get(parent_tgid)
        old = living.get(tgid)
        if old is not None and old.forked_ns is None and earliest - 1 <= (old.start_ticks or 0) <= latest:
            # The scan met it before its FORK was looked at.
            old.forked_ns = timestamp_ns
            old.ppid = parent_tgid
            old.parent = parent
            if parent is not None:
                # Those below it have their FORKs still to come, and their tags with these.
                old.add_tags(parent.tags)
            return old
        if parent is None:
            process = Process(
                tgid, start_ticks, None, parent_tgid, None, UNKNOWN_IMAGE, UNKNOWN_CONTEXT, None
            )
        else:
            process = Process(
                tgid,
                start_ticks,
                parent,
                parent_tgid,
                parent.comm,
                parent.image,
                parent.context,
                parent.creds,
            )
            process.depth = parent.depth + 1
            process.tags = parent.tags
            if process.depth > 2 * ANCESTOR_LIMIT:
                self._cut_chain(process)
        process.inherited = True
        process.forked_ns = timestamp_ns
        if old is not None:
            if (old.forked_ns or 0) >= self._unsure_ns:
                self._displaced.setdefault(tgid, []).append(old)
            else:
                self._left.append(old)
        if start_ticks is not None:
            self._number(process, start_ticks)
        living[tgid] = process
        return process

    def thread_forked(self, tgid: int, tid: int) -> None:
        """A thread was added to a process."""
        process = self._living.get(tgid)
        if process is None:
            return
        if process.threads is None:
            process.threads = {tgid}
        process.threads.add(tid)

    def exec(self, tgid: int, reading: Reading | NotRead, timestamp_ns: int) -> Process:
        """A process has a new image: its new state, with what the reading says if that is its."""
        old = self._living.get(tgid)
        if old is not None and self._is_over(old, reading, timestamp_ns):
            self._left.append(old)
            old = None
        identity = self._identify(old, reading, timestamp_ns)
        if isinstance(reading, NotRead) or identity != "same":
            process = self.stranger(tgid) if old is None else old.copy()
            process.image = _NOT_READ[identity]
            process.comm = None
        else:
            process = self._from_reading(tgid, reading) if old is None else old.copy()
            self._take_image(process, reading)
        process.inherited = False
        process.execed_ns = timestamp_ns
        process.threads = None
        if process.tally is not None:
            process.tally.execed()
        self._living[tgid] = process
        return process

    def changed(self, process: Process) -> Process:
        """A copy of a process that takes its place in the table, for the caller to change at once."""
        changed = process.copy()
        self._living[process.pid] = changed
        return changed

    def tag(self, process: Process, tags: Collection[str]) -> None:
        """Give a life tags that stay with it, and go to those that are forked from now on."""
        if all(tag in process.tags for tag in tags):
            return
        process.add_tags(tags)
        living = self._living.get(process.pid)
        if living is not None and living.process_id == process.process_id:
            living.add_tags(process.tags)

    def creds(self, ids: Ids | None) -> Creds | None:
        """Ids, with who knows the names."""
        return None if ids is None else Creds(ids.uid, ids.euid, ids.gid, ids.egid, self._users)

    def take_left(self, before_ns: int) -> list[Process]:
        """Those whose PID was another's before that time, while nobody told of their end; given once."""
        left, self._left = self._left, []
        for tgid, lives in list(self._displaced.items()):
            followers = [*lives[1:], self._living.get(tgid)]
            gone = [
                life
                for life, next_one in zip(lives, followers, strict=True)
                if next_one is None or (next_one.forked_ns or 0) < before_ns
            ]
            for life in gone:
                self.remove(life)
            left += gone
        return left

    def take_earlier(self, process: Process) -> Process | None:
        """An earlier life of the same id that was left; given once."""
        for n, left in enumerate(self._left):
            if left.pid == process.pid:
                return self._left.pop(n)
        return None

    def living(self) -> list[Process]:
        """All, as they are now."""
        return list(self._living.values())

    def all(self) -> list[Process]:
        """All lives of which anything is known, each after its parent, and after what it was when it had children."""
        found: dict[int, Process] = {}
        displaced = [life for lives in self._displaced.values() for life in lives]
        lives = (*displaced, *self._left, *self._living.values())
        for life in (*(life.parent for life in lives), *lives):
            line = []
            process = life
            while process is not None and id(process) not in found:
                line.append(process)
                process = process.parent
            found.update((id(process), process) for process in reversed(line))
        return list(found.values())

    def rewind(self, events: list[RawEvent]) -> None:
        """Have what a scan found as it was before these events: what they tell, they will tell."""
        for event in events:
            what, at_ns = event[5], event[7]
            tgid = event[11] if what == FORK else event[9]
            process = self._living.get(tgid)
            if process is None or process.read_ns <= at_ns:
                continue
            if what == FORK and event[10] == tgid:
                if (process.start_ticks or 0) >= self._clock.start_ticks(at_ns)[0] - 1:
                    del self._living[tgid]
            elif what == EXEC:
                process.image, process.comm = UNKNOWN_IMAGE, None
            elif what in (UID, GID):
                process.creds = self.unknown_creds
            elif what == COMM:
                process.comm = None

    def lost(self, until_ns: int) -> None:
        """Events were lost before this time: an EXIT that did not come yet of a life from before may never come."""
        self.lost_ns = self._unsure_ns = max(self.lost_ns, until_ns)

    def verified(self, at_ns: int) -> None:
        """All that it has lived then: their EXITs will come, but for what was lost since."""
        if self._unsure_ns <= at_ns:
            self._unsure_ns = 0

    def appeared(self, pid: int, reading: Reading) -> Process:
        """A process that nobody told us of is there."""
        process = self._from_reading(pid, reading)
        self._take_image(process, reading)
        self._number(process, reading.stat.start_ticks)
        self._living[pid] = process
        return process

    def renew(self, process: Process, seen: Process, reading: Reading) -> Process:
        """A process is not what the table had of it when it was read, which was `seen`: events were lost.

        Gives what it is now: as it was read, but for what events have told since.
        """
        changed = self.changed(process)
        shown = (reading.exe, reading.argv)
        if None not in shown and shown != (process.image.exe, process.image.argv):
            self._take_image(changed, reading)
            changed.inherited = False
        changed.comm = reading.stat.comm if process.comm == seen.comm else process.comm
        changed.context = reading.context if process.context is seen.context else process.context
        changed.creds = process.creds
        if process.creds is seen.creds:
            changed.creds = self.creds(reading.ids) or process.creds
        return changed

    def lives(self, tgid: int, tid: int) -> list[Process]:
        """Those that a task may be of, the oldest first."""
        living = self._living.get(tgid)
        displaced = self._displaced.get(tgid) if self._displaced else None
        if displaced is None:
            return [] if living is None else [living]
        lives = displaced if living is None else [*displaced, living]
        if tid == tgid:
            return lives
        return [life for life in lives if life.threads is not None and tid in life.threads] or lives[-1:]

    def remove(self, process: Process) -> None:
        """A process has ended."""
        pid = process.pid
        if self._living.get(pid) is process:
            del self._living[pid]
            return
        if process in self._left:
            self._left.remove(process)
            return
        displaced = self._displaced[pid]
        displaced.remove(process)
        if not displaced:
            del self._displaced[pid]

    def _number(self, process: Process, start_ticks: int) -> None:
        """Number a life among those that share its PID and start."""
        if start_ticks > self._numbers_tick:
            self._numbers_before, self._numbers = self._numbers, {}
            self._numbers_tick = start_ticks
        key = (process.pid, start_ticks)
        process.life = (self._numbers.get(key) or self._numbers_before.get(key, 0)) + 1
        self._numbers[key] = process.life

    def _cut_chain(self, process: Process) -> None:
        """Let go of the ended beyond `ANCESTOR_LIMIT`; the living are in the table anyway."""
        ancestor = process
        for _ in range(ANCESTOR_LIMIT):
            if ancestor.parent is None:
                break
            ancestor = ancestor.parent
        for _ in range(ANCESTOR_LIMIT):
            if ancestor.parent is None:
                break
            if self._living.get(ancestor.pid) is not ancestor:
                ancestor.parent = None
                self.chains_cut += 1
                break
            ancestor = ancestor.parent
        # Its children need not look again for a while, nor its brothers and sisters.
        process.depth = ANCESTOR_LIMIT
        if process.parent is not None:
            process.parent.depth = ANCESTOR_LIMIT - 1

    def _is_over(self, known: Process, reading: Reading | NotRead, timestamp_ns: int) -> bool:
        """Whether a reading says that this life ended unseen: another one began after it, and before the event."""
        if isinstance(reading, NotRead) or known.start_ticks is None:
            return False
        return known.start_ticks + 1 < reading.stat.start_ticks < self._clock.start_ticks(timestamp_ns)[0]

    def _identify(self, known: Process | None, reading: Reading | NotRead, timestamp_ns: int) -> str:
        """Whether a reading is of the life, and the image, that an EXEC is of."""
        if isinstance(reading, NotRead):
            return "gone" if reading is NotRead.GONE else "unknown"
        start_ticks = reading.stat.start_ticks
        if start_ticks > self._clock.start_ticks(timestamp_ns)[1] + 1:
            return "reused"
        if known is not None and known.start_ticks is not None:
            latest = known.start_ticks if known.exact else known.start_ticks + 1
            if start_ticks > latest:
                return "reused"
            # From a start to its FORK it may take long, but no longer than to what was recorded after that.
            if start_ticks < known.start_ticks - 1 and not reading.is_recorded:
                return "unknown"
        if (
            known is not None
            and reading.is_recorded
            and reading.begun_ns < max(known.execed_ns, known.forked_ns or 0)
        ):
            return "unknown"  # of an exec whose EXEC was lost
        if reading.argv is not None:
            return "same"
        # Ended, or amid its next exec: it is not this image's any more.
        return "gone" if reading.exe is None else "unknown"

    def _take_image(self, process: Process, reading: Reading) -> None:
        if process.start_ticks != reading.stat.start_ticks:
            # The clock of its FORK had just gone on.
            process.start_ticks = reading.stat.start_ticks
            self._number(process, reading.stat.start_ticks)
        process.exact = True
        process.read_ns = reading.done_ns
        process.comm = reading.stat.comm
        process.context = reading.context
        creds = self.creds(reading.ids)
        if creds is not None and creds != process.creds:
            # What it inherited was not its own: a copy of somebody else (CLONE_PARENT), or of a thread with other ids.
            process.creds = creds
        process.image = self._image(reading)

    def _image(self, reading: Reading) -> Image:
        argv = reading.argv
        if argv is None or len(argv) <= LONG_ARGV_BYTES:
            return Image(reading.exe, argv, reading.argv_bytes, reading.argv_tail, "same")
        account = self._long_argv
        if account.held_bytes + len(argv) > LONG_ARGV_TOTAL_BYTES:
            self.argv_cut += 1
            tail = reading.argv_tail or argv[-LONG_ARGV_BYTES:]
            return Image(reading.exe, argv[:LONG_ARGV_BYTES], reading.argv_bytes, tail, "same")
        image = LongImage(reading.exe, argv, reading.argv_bytes, reading.argv_tail, "same")
        image.account = account
        account.held_bytes += len(argv)
        return image

    def _from_reading(self, tgid: int, reading: Reading) -> Process:
        """A process whose FORK was not seen. Its parent is the one it has now: whose child it was born is not known."""
        ppid = reading.stat.ppid
        parent = self._living.get(ppid)
        process = Process(
            tgid,
            reading.stat.start_ticks,
            parent,
            ppid,
            reading.stat.comm,
            UNKNOWN_IMAGE,
            reading.context,
            self.creds(reading.ids),
        )
        process.exact = True
        if parent is not None:
            process.depth = parent.depth + 1
            process.tags = parent.tags
        return process

    def _add_scanned(self, pid: int, reading: Reading, reader: Reader) -> None:
        process = self._from_reading(pid, reading)
        self._take_image(process, reading)
        if reading.stat.threads > 1:
            process.threads = reader.living_tids(pid, reading) or None
        self._living[pid] = process


_NOT_READ = {"gone": GONE_IMAGE, "reused": REUSED_IMAGE, "unknown": UNKNOWN_IMAGE, "same": UNKNOWN_IMAGE}
