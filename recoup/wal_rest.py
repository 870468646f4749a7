"""What a replay left behind: whether it ended where the received WAL does, or at a record that is damaged.

A server that replays to the latest moment takes the first record it cannot read for the end of the WAL, and says
nothing. Layout of pages and records: ``src/include/access/xlog_internal.h`` and ``xlogrecord.h`` of PostgreSQL.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recoup.manifest import BaseBackup
from recoup.wal import in_order, may_read, write_lsn

_CHUNK = 1 << 20
_SHORT, _LONG = 24, 40
# xl_tot_len, xl_xid, xl_prev: the beginning of every record; the first alone is certain to be on one page.
_LENGTH, _HEAD, _SMALLEST = struct.Struct("<I"), struct.Struct("<IIQ"), 24
_BLOCK = struct.Struct("<I")
_BLOCK_AT = 36
_COMMON_BLOCK = 8192
# A record that was cut off where the receiver was cut off is seldom longer; its length may be what is damaged.
_CUT = 1 << 18
_DISK = 4096
_CRC, _CRC_AT = struct.Struct("<I"), 20


@dataclass(frozen=True)
class Rest:
    """What follows the last record that was replayed, empty where nothing does; ``unclear`` when it may be damaged."""

    damaged: str = ""
    unclear: str = ""


@may_read()
def received_to(dirs: tuple[Path, ...], base: BaseBackup) -> int:
    """Give the LSN behind the last byte of WAL that was received in a row from a base backup on; 0 for none."""
    files = in_order(dirs, base)
    for number in sorted(files, reverse=True):
        if used := _used(files[number]):
            return number * base.segment_size + used
    return 0


@may_read()
def behind(dirs: tuple[Path, ...], base: BaseBackup, lsn: int, length: int) -> int:
    """Give where the record can begin that comes after one of so many bytes."""
    wal = _Wal(in_order(dirs, base), base.segment_size)
    return wal.record_at(wal.behind(lsn, length))


@may_read()
def rest(dirs: tuple[Path, ...], base: BaseBackup, reached: int, end: int) -> Rest:
    """Say what is left of the WAL after the LSN a replay reached, of what had been received when it began (``end``)."""
    wal = _Wal(in_order(dirs, base), base.segment_size)
    begins = wal.record_at(reached)
    if begins >= end:
        return Rest()
    where, more = write_lsn(begins), f"{end - begins} bytes follow that had been received"
    length = _LENGTH.unpack(wal.read(begins, _LENGTH.size))[0]
    after = wal.behind(begins, length) if length >= _SMALLEST else begins
    if length >= _SMALLEST and after > end:
        # A record may end in zeros, which are then not told from what was never received.
        if length <= _CUT and wal.is_whole(begins, length):
            return Rest(damaged=f"the record at {where} had been received whole, and was not replayed")
        if end - begins > _CUT:
            return Rest(unclear=f"the record at {where} is not there to its end: {more}")
        # What cuts one off, the sender or a full disk, cuts between blocks.
        if (after - 1) // _DISK == (end - 1) // _DISK:
            return Rest(unclear=f"the record at {where} is damaged, or is not there to its end: {more}")
        return Rest()
    # The next record names this one as the one before it: it had been received to its end.
    follows = wal.record_at(after)
    if follows + _HEAD.size <= end and _HEAD.unpack(wal.read(follows, _HEAD.size))[2] == begins:
        return Rest(damaged=f"the record at {where} is damaged: {more}")
    if begins < wal.whole:
        return Rest(damaged=f"the WAL is damaged at {where}: {more}")
    # What a server that crashed had sent of a record may stay behind what it wrote there when it was up again.
    return Rest(unclear=f"nothing that can be read at {where}, yet {more}")


class _Wal:
    """Received WAL as one run of bytes, zero where nothing is."""

    def __init__(self, files: Mapping[int, Path], size: int) -> None:
        self._files, self._size = files, size
        first = self._files[min(files)] if files else None
        found = _read(first, _BLOCK_AT, _BLOCK.size) if first else b""
        block = _BLOCK.unpack(found)[0] if len(found) == _BLOCK.size else 0
        # Compiled into the server, and written into the first page of each segment.
        self._block = block if block in (1 << n for n in range(10, 17)) else _COMMON_BLOCK
        partial = [number for number, path in files.items() if path.suffix]
        self.whole = (min(partial) if partial else max(files, default=-1) + 1) * size

    def read(self, lsn: int, length: int) -> bytes:
        number, at = divmod(lsn, self._size)
        found = _read(self._files[number], at, length) if number in self._files else b""
        if len(found) < length and at + length > self._size:
            following = self._files.get(number + 1)
            found += _read(following, 0, length - len(found)) if following else b""
        return found.ljust(length, b"\0")

    def record_at(self, lsn: int) -> int:
        """Give where the record begins that comes next: behind the header where a page begins."""
        aligned = -(-lsn // 8) * 8
        return aligned + self._header(aligned) if aligned % self._block == 0 else aligned

    def behind(self, lsn: int, length: int) -> int:
        """Give where a record ends, which goes on behind the header of each page."""
        while length > (room := self._block - lsn % self._block):
            length -= room
            lsn += room
            lsn += self._header(lsn)
        return lsn + length

    def is_whole(self, lsn: int, length: int) -> bool:
        """Say whether a record is what its checksum says (``xl_crc``: what follows the header, then the header)."""
        record = bytearray()
        while len(record) < length:
            record += self.read(lsn, room := min(self._block - lsn % self._block, length - len(record)))
            lsn += room
            lsn += self._header(lsn) if lsn % self._block == 0 else 0
        said: int = _CRC.unpack_from(record, _CRC_AT)[0]
        return said == _crc32c(bytes(record[_CRC_AT + _CRC.size :] + record[:_CRC_AT]))

    def _header(self, lsn: int) -> int:
        return _LONG if lsn % self._size == 0 else _SHORT


def _crc32c(data: bytes) -> int:
    """Give the CRC-32C of bytes (Castagnoli; RFC 3720, appendix B.4)."""
    found = 0xFFFFFFFF
    for byte in data:
        found = _CRC_TABLE[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(_crc_of(byte) for byte in range(256))


def _used(path: Path) -> int:
    """Give the length of a file without the zeros at its end."""
    at = _there(path).stat().st_size
    while at > 0:
        begin = max(0, at - _CHUNK)
        if kept := _read(path, begin, at - begin).rstrip(b"\0"):
            return begin + len(kept)
        at = begin
    return 0


def _there(path: Path) -> Path:
    """Give where a file is now: it may have been received to its end, and so renamed, since it was listed."""
    return path if path.suffix != ".partial" or path.exists() else path.with_suffix("")


def _read(path: Path, at: int, length: int) -> bytes:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        file = _there(path).open("rb")
    with file:
        file.seek(at)
        return file.read(length)
