# SPDX-License-Identifier: MIT
"""What of libbpf is used, through ctypes: an object is loaded and attached, its ring buffers are read.

What is loaded stays for as long as somebody has its descriptors: of its links, that attach it, and of its maps.

Facts:
- libbpf.so.1 gives NULL with errno where it fails, or a negative errno [libbpf, LIBBPF_STRICT_ALL].
- A ring's data are for the reader to see only in the right order, which on some machines takes instructions that Python
  does not have: libbpf does that, and calls back for each item.
- Such a call back takes the interpreter's lock each time: it must not have been given away when the ring is read.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import struct
from collections.abc import Callable

_LIBRARY = "libbpf.so.1"

# struct bpf_prog_info { …; 208 u64 recursion_misses; … }; since Linux 5.12.
_MISSES = struct.Struct("=208x Q")
_PROG_INFO_BYTES = _MISSES.size

_Pointer = ctypes.c_void_p
_SAMPLE = ctypes.PYFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_size_t)

_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "libbpf_set_print": (_Pointer, (_Pointer,)),
    "bpf_object__open_file": (_Pointer, (ctypes.c_char_p, _Pointer)),
    "bpf_object__load": (ctypes.c_int, (_Pointer,)),
    "bpf_object__close": (None, (_Pointer,)),
    "bpf_object__find_map_by_name": (_Pointer, (_Pointer, ctypes.c_char_p)),
    "bpf_object__find_program_by_name": (_Pointer, (_Pointer, ctypes.c_char_p)),
    "bpf_object__next_program": (_Pointer, (_Pointer, _Pointer)),
    "bpf_map__fd": (ctypes.c_int, (_Pointer,)),
    "bpf_map__set_max_entries": (ctypes.c_int, (_Pointer, ctypes.c_uint32)),
    "bpf_program__fd": (ctypes.c_int, (_Pointer,)),
    "bpf_obj_get_info_by_fd": (ctypes.c_int, (ctypes.c_int, _Pointer, ctypes.POINTER(ctypes.c_uint32))),
    "bpf_program__attach": (_Pointer, (_Pointer,)),
    "bpf_link__fd": (ctypes.c_int, (_Pointer,)),
    "bpf_link__destroy": (ctypes.c_int, (_Pointer,)),
    "ring_buffer__new": (_Pointer, (ctypes.c_int, _SAMPLE, _Pointer, _Pointer)),
    "ring_buffer__add": (ctypes.c_int, (_Pointer, ctypes.c_int, _SAMPLE, _Pointer)),
    "ring_buffer__epoll_fd": (ctypes.c_int, (_Pointer,)),
    "ring_buffer__consume": (ctypes.c_int, (_Pointer,)),
    "ring_buffer__free": (None, (_Pointer,)),
}


@functools.cache
def _load_library() -> ctypes.PyDLL:
    # PyDLL keeps the interpreter's lock: none of these calls waits for anything.
    library = ctypes.PyDLL(_LIBRARY, use_errno=True)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise OSError(f"{_LIBRARY} has no {name}")
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(None)  # what it has to say goes to standard error otherwise
    return library


def check_library() -> None:
    """Raises OSError where there is no libbpf, or not all of it that is used."""
    _load_library()


def _give_back() -> None:
    """Have the C library give the kernel what loading took, the description of all of the kernel's types."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class BpfObject:
    """A loaded object with all its programs attached, until `close`. One thread uses it.

    `entries` are the sizes of maps that are not as the object has them. Raises OSError, also where there is no libbpf.
    """

    def __init__(self, path: str, entries: dict[str, int]) -> None:
        self._library = _load_library()
        self._links: list[int] = []
        self._object = _found(self._library.bpf_object__open_file(os.fsencode(path), None))
        try:
            for name, count in entries.items():
                _check(self._library.bpf_map__set_max_entries(self._map(name), count))
            _check(self._library.bpf_object__load(self._object))
            self._attach()
            _give_back()
        except OSError:
            self.close()
            raise

    def _attach(self) -> None:
        program = None
        while program := self._library.bpf_object__next_program(self._object, program):
            self._links.append(_found(self._library.bpf_program__attach(program)))

    def links(self) -> list[int]:
        """The descriptors that keep the programs attached; they are the object's."""
        return [self._library.bpf_link__fd(link) for link in self._links]

    def map(self, name: str) -> int:
        """The descriptor of a map, which is the object's; of the global variables, that is `.bss`."""
        return int(self._library.bpf_map__fd(self._map(name)))

    def program(self, name: str) -> int:
        """The descriptor of a program, which is the object's."""
        program = _found(self._library.bpf_object__find_program_by_name(self._object, name.encode()))
        return int(self._library.bpf_program__fd(program))

    def close(self) -> None:
        """Let go of it; nobody else having a descriptor, it is detached and unloaded."""
        for link in self._links:
            self._library.bpf_link__destroy(link)
        self._library.bpf_object__close(self._object)
        self._links = []

    def _map(self, name: str) -> int:
        return _found(self._library.bpf_object__find_map_by_name(self._object, name.encode()))


def words(map_fd: int) -> memoryview:
    """A map of global variables as 64-bit words, as they are whenever they are looked at."""
    return memoryview(mmap.mmap(map_fd, mmap.PAGESIZE, prot=mmap.PROT_READ)).cast("Q")


def misses(program_fd: int) -> int:
    """How often the kernel left out this program, as it ran on that CPU already. Raises OSError."""
    # What is in it says where the kernel may write more: nowhere.
    info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
    size = ctypes.c_uint32(_PROG_INFO_BYTES)
    _check(_load_library().bpf_obj_get_info_by_fd(program_fd, info, size))
    return int(_MISSES.unpack_from(info)[0])


class Rings:
    """Hands what is in ring buffers, by the descriptors of their maps, to their readers. One thread uses it.

    It goes on where whoever read them last has ended. Raises OSError.
    """

    def __init__(self, readers: dict[int, Callable[[bytes], bool]]) -> None:
        self._library = _load_library()
        # They must stay for as long as the rings.
        self._callbacks = {fd: _SAMPLE(_calling(reader)) for fd, reader in readers.items()}
        self._rings: int | None = None
        for fd, callback in self._callbacks.items():
            if self._rings is None:
                self._rings = _found(self._library.ring_buffer__new(fd, callback, None, None))
            else:
                _check(self._library.ring_buffer__add(self._rings, fd, callback, None))

    def consume(self) -> None:
        """Hand over what there is, until a reader says False: what that one was given counts as read."""
        _check(self._library.ring_buffer__consume(self._rings), expected=_ENOUGH)

    def fileno(self) -> int:
        """A descriptor that can be read where somebody is to be woken for what is in the rings."""
        return int(self._library.ring_buffer__epoll_fd(self._rings))

    def close(self) -> None:
        """Read no more; the maps stay."""
        if self._rings is not None:
            self._library.ring_buffer__free(self._rings)
        self._rings = None


def _found(pointer: int | None) -> int:
    if not pointer:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pointer


def _check(result: int, *, expected: int = 0) -> None:
    if result < 0 and result != expected:
        raise OSError(-result, os.strerror(-result))


_ENOUGH = -errno.ECANCELED


def _calling(reader: Callable[[bytes], bool]) -> Callable[[int, int, int], int]:
    string_at = ctypes.string_at

    def call(_context: int, data: int, size: int) -> int:
        return 0 if reader(string_at(data, size)) else _ENOUGH

    return call
