"""Mutations of file content for the fuzzers: of bytes, and of members of zip and tar files.

A zip or tar file whose checksums are wrong is rejected at once. So a part of its mutations changes
a member and writes the checksums again, which leads behind that first check.
"""

import io
import random
import re
import tarfile
import zipfile

TOKENS = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"nan", b"NaN", b"inf", b"-inf", b".inf", b"1e999",
    b"Infinity", b"-1", b"0", b"9" * 20, b"9" * 5000, b"[", b"]", b"{", b"}", b"[]", b"{}",
    b"null", b"~", b'"', b"'", b",", b"\n", b"\r", b"\t", b"\x0b", b":", b": ", b"- ", b"true",
    b"step", b"a: &a [*a]", b"!!python/object:os.system", b"!!binary x", b"2001-99-99", b"../",
    b"\xc2\xb2", b"\xd9\xa3", b"=1+1", b"%", b"<b>", b"1_000", b"0x7f", b"1:30:00",
)  # fmt: skip
"""Texts at which readers are likely to fail."""
NUMBERS = (
    b"-1", b"0", b"1", b"255", b"65536", b"2147483647", b"2147483648", b"4294967296",
    b"9223372036854775807", b"18446744073709551616", b"1e308", b"1e999", b"nan", b"0.5", b"-0.0",
    b"1000000000000",
)  # fmt: skip
MAX_REPEATS = 100_000
MAX_BYTES = 4 << 20
MAX_MUTATIONS = 4
BLOCK = tarfile.BLOCKSIZE


def mutated(data: bytes, draws: random.Random, others: list[bytes]) -> bytes:
    """Return a mutation of a file's content; `others` are contents that it may be mixed with."""
    inner = _in_zip if data[:4] == b"PK\x03\x04" else _in_tar if _is_tar(data) else None
    if inner and draws.random() < 0.7:
        return inner(data, draws, others)
    return _bytes(data, draws, others)


def _bytes(data: bytes, draws: random.Random, others: list[bytes]) -> bytes:
    """Return bytes with one to a few changes."""
    for _ in range(draws.randint(1, MAX_MUTATIONS)):
        data = draws.choice(CHANGES)(data, draws)
    if others and draws.random() < 0.05:
        other = draws.choice(others)
        data = data[: draws.randint(0, len(data))] + other[draws.randint(0, len(other)) :]
    return data[:MAX_BYTES]


def _flip(data: bytes, draws: random.Random) -> bytes:
    if not data:
        return data
    place = draws.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]


def _overwrite(data: bytes, draws: random.Random) -> bytes:
    place = draws.randint(0, len(data))
    new = draws.randbytes(draws.randint(1, 8))
    return data[:place] + new + data[place + len(new) :]


def _insert(data: bytes, draws: random.Random) -> bytes:
    place = draws.randint(0, len(data))
    return data[:place] + draws.choice(TOKENS) + data[place:]


def _replace(data: bytes, draws: random.Random) -> bytes:
    """Replace a short piece by a text."""
    place = draws.randint(0, len(data))
    return data[:place] + draws.choice(TOKENS) + data[place + draws.randint(0, 12) :]


def _repeat(data: bytes, draws: random.Random) -> bytes:
    """Insert a text very often."""
    place = draws.randint(0, len(data))
    many = draws.choice(TOKENS) * int(MAX_REPEATS ** draws.random())
    return data[:place] + many + data[place:]


def _cut(data: bytes, draws: random.Random) -> bytes:
    return data[: draws.randint(0, len(data))]


def _remove(data: bytes, draws: random.Random) -> bytes:
    place = draws.randint(0, len(data))
    return data[:place] + data[place + draws.randint(0, 64) :]


def _duplicate(data: bytes, draws: random.Random) -> bytes:
    start = draws.randint(0, len(data))
    end = min(len(data), start + draws.randint(0, 200))
    place = draws.randint(0, len(data))
    return data[:place] + data[start:end] + data[place:]


def _change_number(data: bytes, draws: random.Random) -> bytes:
    """Replace a number in a text."""
    found = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", data[:100_000]))
    if not found:
        return data
    number = draws.choice(found)
    return data[: number.start()] + draws.choice(NUMBERS) + data[number.end() :]


def _change_word(data: bytes, draws: random.Random) -> bytes:
    """Replace a word by another word of the file, or by a text."""
    found = list(re.finditer(rb"[A-Za-z_][A-Za-z_0-9]*", data[:100_000]))
    if not found:
        return data
    word = draws.choice(found)
    new = draws.choice(found)[0] if draws.random() < 0.5 else draws.choice(TOKENS)
    return data[: word.start()] + new + data[word.end() :]


CHANGES = (
    _flip, _overwrite, _insert, _replace, _repeat, _cut, _remove, _duplicate, _change_number,
    _change_number, _change_word,
)  # fmt: skip


def _in_zip(data: bytes, draws: random.Random, others: list[bytes]) -> bytes:
    """Return a zip file with a change of one member, and with right CRCs."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    except Exception:  # an earlier mutation has broken it
        return _bytes(data, draws, others)
    if not members:
        return _bytes(data, draws, others)
    place = draws.randrange(len(members))
    name, content = members[place]
    action = draws.random()
    if action < 0.8:
        members[place] = (name, _bytes(content, draws, others))
    elif action < 0.9:
        members[place] = (name, draws.choice(members)[1])
    else:
        members.pop(place)
    packing = zipfile.ZIP_STORED if draws.random() < 0.95 else zipfile.ZIP_DEFLATED
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return file.getvalue()


def _is_tar(data: bytes) -> bool:
    return data[257:262] == b"ustar"


def _in_tar(data: bytes, draws: random.Random, others: list[bytes]) -> bytes:
    """Return a tar file with a change of one member or header, and with right sums of headers."""
    members = []
    position = 0
    try:
        while data[position : position + BLOCK].strip(b"\0"):
            member = tarfile.TarInfo.frombuf(data[position : position + BLOCK], "utf-8", "replace")
            start = position + BLOCK
            members.append((member, data[start : start + member.size]))
            position = start + member.size + -member.size % BLOCK
    except (tarfile.TarError, ValueError):
        return _bytes(data, draws, others)
    if not members:
        return _bytes(data, draws, others)
    place = draws.randrange(len(members))
    member, content = members[place]
    action = draws.random()
    if action < 0.6:
        content = _bytes(content, draws, others)
        member.size = len(content)
    elif action < 0.7:
        member.size = draws.choice([0, 1, member.size + 1, 1 << 33, 1 << 62])
    elif action < 0.8:
        member.type = draws.choice([b"1", b"2", b"6", b"S", b"x", b"g", b"L"])
    elif action < 0.9:
        member.name = draws.choice(["", "a", "../a.json", "a" * 99, member.name + ".json"])
    else:
        members.insert(draws.randint(0, len(members)), draws.choice(members))
    members[place] = (member, content)
    parts = []
    for member, content in members:
        parts += [member.tobuf(tarfile.GNU_FORMAT), content, bytes(-len(content) % BLOCK)]
    return b"".join([*parts, bytes(2 * BLOCK)])
