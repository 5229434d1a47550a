"""Reads the machine code that nvdisasm prints: the loads, and what waits for them."""

import re

ENTRY = re.compile(r"^\.text\.(\S+):$", re.MULTILINE)
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)([^;]*);")


def traces(disassembly: str) -> dict[str, str]:
    """Return the trace of each kernel, by its mangled name; see `trace`."""
    parts = ENTRY.split(disassembly)[1:]
    return {name: trace(code) for name, code in zip(parts[::2], parts[1::2], strict=True)}


def trace(code: str) -> str:
    """Return how a kernel accesses global memory, a letter for each event in the order of the code.

    L and S are a load and a store of 16 bytes, l and s those of fewer bytes. A u is the first
    instruction that uses a value of the loads before it: there a thread waits for memory. "LLu"
    has two loads on their way at once, and "LuLu" has one. Branches are not followed.
    """
    events = ""
    loading: set[int] = set()  # registers whose values are on their way
    for opcode, operands in INSTRUCTION.findall(code):
        registers = [int(number) for number in re.findall(r"\bR(\d+)\b", operands)]
        is_load = opcode.startswith("LDG")
        used = registers[1:] if is_load else registers
        if loading.intersection(used):
            events += "u"
            loading.clear()
        size = _num_bytes(opcode)
        if is_load:
            loading.update(range(registers[0], registers[0] + max(size // 4, 1)))
            events += "L" if size == 16 else "l"
        elif opcode.startswith("STG"):
            events += "S" if size == 16 else "s"
    return events


def _num_bytes(opcode: str) -> int:
    """Return how many bytes an instruction such as LDG.E.128 loads or stores in a thread."""
    found = re.search(r"\.[US]?(8|16|64|128)\b", opcode)
    return int(found[1]) // 8 if found else 4
