"""Walking folders for the files that a pattern means, none of them twice.

A folder is walked in the order of names, its own files before its folders; links to folders are followed, and a circle
of them is entered once. What is held in memory are the names of one folder, and a rule for each walk and each link that
says which files it brings: so that a file is known to have come before, however many there are.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

from .beside import LOCK

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read; `-` is standard input. given: by name or pattern, not met in a folder.

    trouble: why it cannot be read, if that is known.
    """

    path: str
    given: bool
    trouble: str | None = None

    @property
    def shown(self) -> str:
        """Its name in messages and results, which is always text."""
        if self.path == STDIN:
            return "<stdin>"
        if self.path.isascii():
            return self.path
        return self.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    @property
    def suffix(self) -> str:
        """What its name says that it holds."""
        return os.path.splitext(self.path)[1].lower()


class Pattern:
    """Which paths below a folder are meant: parts as a shell matches them, `**` any number of folders.

    A walk carries the set of parts that may come next; at the number of parts, a path is matched whole.
    """

    def __init__(self, parts: Sequence[str], wanted: Callable[[str], bool], given: bool) -> None:
        """`wanted`: of the last name, whether such a file is one. `given`: by somebody, and no folder as a whole."""
        self.given = given
        self._parts = [None if part == "**" else re.compile(fnmatch.translate(part)).match for part in parts]
        self._hidden = [part.startswith(".") for part in parts]
        self._wanted = wanted
        self.start = self._closed({0})

    def below(self, states: frozenset[int], name: str) -> frozenset[int]:
        """The parts that may come next behind a name; none where the name is not meant."""
        reached = set[int]()
        for state in states:
            if state == len(self._parts) or (name.startswith(".") and not self._hidden[state]):
                continue
            match = self._parts[state]
            if match is None:
                reached.add(state)
            elif match(name):
                reached.add(state + 1)
        return self._closed(reached)

    def leads_on(self, states: frozenset[int], name: str) -> bool:
        """Whether something in a folder of that name may be meant."""
        return any(state < len(self._parts) for state in self.below(states, name))

    def takes(self, states: frozenset[int], name: str) -> bool:
        """Whether a file of that name is one of those meant."""
        return self._wanted(name) and len(self._parts) in self.below(states, name)

    def _closed(self, states: set[int]) -> frozenset[int]:
        """With the parts behind a `**`, which may stand for no folder at all."""
        for state in sorted(states):
            while state < len(self._parts) and self._parts[state] is None:
                state += 1
                states.add(state)
        return frozenset(states)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a walk brings: all that a pattern takes in and below a folder."""

    number: int
    pattern: Pattern
    states: frozenset[int]


@dataclass(slots=True)
class Seen:
    """The files that have come, or will: by the rules of walks, by the real path of the folder where each starts; and
    one by one, by real path."""

    single: set[str] = field(default_factory=set)
    _rules: dict[str, list[_Rule]] = field(default_factory=dict)
    _count: int = 0

    def first(self, real: str) -> bool:
        """Whether a file, named by its real path, comes for the first time; from now on it does not."""
        folder, name = os.path.split(real)
        if real in self.single or any(rule.pattern.takes(at, name) for rule, at in self.walks(folder)):
            return False
        self.single.add(real)
        return True

    def add(self, real: str, pattern: Pattern, states: frozenset[int]) -> int:
        """The number of the walk that starts in a folder, named by its real path, from now on."""
        self._rules.setdefault(real, []).append(_Rule(self._count, pattern, states))
        self._count += 1
        return self._count - 1

    def walks(self, real: str) -> Iterator[tuple[_Rule, frozenset[int]]]:
        """The walks that come to a folder, named by its real path, each with its state there."""
        steps = list[str]()
        while True:
            for rule in self._rules.get(real, ()):
                states = reduce(rule.pattern.below, reversed(steps), rule.states)
                if states:
                    yield rule, states
            around, name = os.path.split(real)
            if around == real:
                return
            steps.append(name)
            real = around


@dataclass(slots=True)
class _Listing:
    """What a walk meets in one folder, by name, sorted."""

    files: list[str]
    folders: list[str]
    links: set[str]
    troubles: dict[str, str]


def walked(root: str, pattern: Pattern, seen: Seen, left_out: Collection[str]) -> Iterator[Found]:
    """The files below a folder that a pattern takes and that have not come before."""
    pending = [(root, pattern.start, seen.add(os.path.realpath(root or os.curdir), pattern, pattern.start))]
    while pending:
        path, states, number = pending.pop()
        try:
            listing = _listed(path, pattern, states)
        except OSError as error:
            yield Found(path or os.curdir, pattern.given, error.strerror or str(error))
            continue
        real = os.path.realpath(path or os.curdir)
        around, inside = os.path.join(real, ""), os.path.join(path, "")
        before = [(rule.pattern, at) for rule, at in seen.walks(real) if rule.number < number]
        for name in listing.files:
            stands = around + name
            if stands in left_out:
                continue
            if name in listing.links and name not in listing.troubles:
                stands = os.path.realpath(stands)
                if stands in left_out or not seen.first(stands):
                    continue
            elif stands in seen.single or any(earlier.takes(at, name) for earlier, at in before):
                continue
            yield Found(inside + name, pattern.given, listing.troubles.get(name))
        folders = _entered(path, states, number, listing, pattern, seen)
        pending.extend(reversed(list(folders)))


def _entered(
    path: str, states: frozenset[int], number: int, listing: _Listing, pattern: Pattern, seen: Seen
) -> Iterator[tuple[str, frozenset[int], int]]:
    """The folders in a folder that are to be walked, each with its state and the number of its rule."""
    for name in listing.folders:
        inside, below = os.path.join(path, name), pattern.below(states, name)
        if name not in listing.links:
            yield inside, below, number
            continue
        real = os.path.realpath(inside)
        if not any(rule.pattern is pattern and below <= at for rule, at in seen.walks(real)):
            yield inside, below, seen.add(real, pattern, below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say: no reason to pass over all that stands beside it
        return False


def _listed(path: str, pattern: Pattern, states: frozenset[int]) -> _Listing:
    files, folders, links, troubles, results = list[str](), list[str](), set[str](), dict[str, str](), set[str]()
    with os.scandir(path or os.curdir) as entries:
        for entry in entries:
            name = entry.name
            if _is_folder(entry):
                if pattern.leads_on(states, name):
                    folders.append(name)
            elif pattern.takes(states, name):
                files.append(name)
                if not os.path.isfile(entry.path):
                    missing = entry.is_symlink() and not os.path.exists(entry.path)
                    troubles[name] = "is a link to nothing" if missing else "is not a regular file"
            if entry.is_symlink():
                links.add(name)
            if name.endswith(LOCK):
                results.add(name.removesuffix(LOCK))
    if results and not pattern.given:
        files = [name for name in files if name not in results]
    return _Listing(sorted(files), sorted(folders), links, troubles)
