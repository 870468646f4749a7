"""The users of a Redis (ACL), which no snapshot holds: kept beside it, brought back where they are missing.

Their lines hold hashes of passwords (SHA-256, without salt): as secret as the roles of a database.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby

import redis

from recoup.catalog import BackupSet
from recoup.errors import RecoveryError, first_line
from recoup.records import Check, Outcome, Subject
from tasks.redis_server import Link, RedisServer, items, text
from tasks.step import note

USERS = "users.acl"
SOON = timedelta(minutes=1)
_NAME = "redis: its users are those of the set"
# A server whose ACL file is missing does not start. One that is there is never overwritten.
_LAY = """
set -eu
umask 077
place=$(dirname "$1")
if [ -e "$1" ] || [ ! -d "$place" ]; then exit 0; fi
cat >"$1.part"
chown "$(stat -c %u:%g "$place")" "$1.part"
mv "$1.part" "$1"
"""


def users_of(link: Link) -> tuple[str, ...]:
    """Give the lines of ACL LIST, as an ACL file has them; none where it has no other user than the default one."""
    try:
        lines = tuple(sorted(text(line) for line in items(link.ask("ACL", "LIST"))))
    except redis.ResponseError as error:
        note(f"its users are not backed up: {first_line(error)}")
        return ()
    return lines if len(lines) > 1 or link.setting("aclfile") else ()


def read_users(one: BackupSet) -> tuple[str, ...]:
    """Give the lines that a set holds; RecoveryError when they cannot be read."""
    path = one.path / USERS
    try:
        return tuple(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()) if path.exists() else ()
    except OSError as error:
        raise RecoveryError(f"{USERS} of {one.set_id} cannot be read: {error.strerror}") from None


def lay_users_down(server: RedisServer, one: BackupSet, file: str) -> None:
    """Write the users where a stopped server looks for its ACL file, ``file``, if it is not there any more."""
    lines = read_users(one)
    if not file or not lines:
        return
    # The set names the path, and who wrote the set may not be who may write anywhere on this machine.
    if not file.endswith(".acl"):
        note(f"users are not written to {file}, for its name does not end in .acl; put {USERS} of the set there")
        return
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    server.stack.beside(server.spec.service, ("sh", "-c", _LAY, "sh", file), timeout=SOON, stdin=data)


def bring_users_back(server: RedisServer, one: BackupSet) -> tuple[Check, ...]:
    """Make the users of a set that the server does not have, and say whether all are the same; none: no check.

    One that is there and differs is left as it is: who configured the server may have changed it since.
    """
    wanted = {_name(line): line for line in read_users(one)}
    if not wanted:
        return ()
    try:
        with server.connect() as link:
            there = {_name(text(line)) for line in items(link.ask("ACL", "LIST"))}
            missing = [name for name in wanted if name not in there]
            for name in missing:
                link.ask("ACL", "SETUSER", *_words(wanted[name])[1:])
            if missing and link.setting("aclfile"):
                link.ask("ACL", "SAVE")
            now = {_name(text(line)): text(line) for line in items(link.ask("ACL", "LIST"))}
    except redis.ResponseError as error:
        return (_check(Outcome.UNPROVEN, len(wanted), f"it does not tell or take them: {first_line(error)}"),)
    differ = [name for name, line in wanted.items() if _rules(now.get(name, "")) != _rules(line)]
    seen = f"{', '.join(differ)} differ" if differ else "the same"
    made = f"; made anew: {', '.join(missing)}" if missing else ""
    return (_check(Outcome.UNPROVEN if differ else Outcome.PASSED, len(wanted), seen + made),)


def _check(outcome: Outcome, users: int, seen: str) -> Check:
    return Check(name=_NAME, subject=Subject.STATUS, outcome=outcome, expected=f"{users} users", seen=seen)


def _words(line: str) -> list[str]:
    # Selectors of version 7 stand in brackets and are one word.
    words: list[str] = []
    depth = 0
    for word in line.split():
        if depth:
            words[-1] += f" {word}"
        else:
            words.append(word)
        depth += word.count("(") - word.count(")") if word.startswith("(") or depth else 0
    return words


def _rules(line: str) -> list[str]:
    """Give a line's words, commands that follow one another sorted: version 6 tells them in any order."""
    found: list[str] = []
    for sign, group in groupby(_words(line), lambda word: word[0] if word[:2] not in ("+@", "-@") else ""):
        words = list(group)
        found += sorted(words) if sign in ("+", "-") else words
    return found


def _name(line: str) -> str:
    return line.split(" ", 2)[1]
