"""Files, configs and checkpoints changed at random, seeded."""

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import torch


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Cut short, or with bytes flipped, replaced, inserted or left out."""
    place = chance.randrange(len(content))
    noise = chance.randbytes(chance.randint(1, 16))
    match chance.randrange(5):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
        case 2:
            return content[:place] + noise + content[place + len(noise) :]
        case 3:
            return content[:place] + noise + content[place:]
        case _:
            return content[:place] + content[place + len(noise) :]


VALUES = (
    *("0", "-1", "1e400", "-1e400", "1e-400", "NaN", "inf", "0x10", "007", "1_000", "5.", "9" * 400, str(2**63)),
    *("null", "true", "yes", '""', '"', '"""', "[]", "[[[[1]]]]", "{}", "{a {b {c = 1}}}", "[1, {a = 2}]"),
    *("${?HOME}", "${lr}", "${nothing}", "10 s", "5d", "a@b", "a\tb", "\N{GRINNING FACE}", "\\u0041", "a" * 10_000),
    *('"../../etc/passwd"', "1.5", "100000", "cpu", "ast", "act", "delta", "coslr", "improved"),
)
LINES = (
    'include "shared.hocon"',
    'include url("http://localhost/x")',
    'include package("os:x")',
    'include "../../../etc/passwd"',
    'include "*.hocon"',
    "first_stage { reg_type = ast }",
    "second_stage { reg_type = act",
    "}",
    "{" * 60,
    "lr.x = 1",
    "lr += 1",
    "= 3",
    "\0",
)


def mutated_config(text: str, chance: random.Random) -> str:
    """One to three lines dropped, doubled, retyped, given another value, another key, or broken."""
    lines = text.splitlines()
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(lines)) if lines else 0
        line = lines[place] if lines else ""
        lines[place : place + 1] = _mutated_line(line, chance, lines)
    text = "\n".join(lines)
    if chance.random() < 0.1:
        text = mutated_bytes(text.encode() or b" ", chance).decode(errors="replace")
    return text


def _mutated_line(line: str, chance: random.Random, lines: Sequence[str]) -> list[str]:
    key, sign, _ = line.partition("=")
    match chance.randrange(8):
        case 0:
            return []
        case 1:
            return [line, chance.choice(lines)] if lines else []
        case 2:
            return [f"{key.swapcase()}{sign} {chance.choice(VALUES)}"]
        case 3:
            return [line, chance.choice(LINES)]
        case 4:
            cut = chance.randrange(len(line) + 1)
            return [line[:cut] + chance.choice('{}[]"=,:#$\\ é') + line[cut:]]
        case 5:
            return [json.dumps(line)]
        case _:
            return [f"{key}= {chance.choice(VALUES)}"]


ENTRIES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**9, 2**63, -0.5, 1e300, math.inf, math.nan),
    *("", "x", "\x1b[2J\n", "a" * 10_000, "/dev/zero", [], {}, [[]], {"x": 1}, {1: 2}, [1] * 1000),
    *(torch.tensor(1.0), torch.zeros(0), torch.zeros(3, 1), torch.ones(2, 2), torch.full((3,), math.nan)),
    *(torch.zeros(3, dtype=torch.int8), torch.zeros(3, dtype=torch.complex64)),
)


def mutated_content(content: dict[str, Any], chance: random.Random) -> None:
    """Replace or remove one entry of nested dictionaries and lists, in place."""
    holder: Any = content
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        nested = [key for key in keys if isinstance(holder[key], dict | list) and holder[key]]
        key = chance.choice(nested if nested and chance.random() < 0.5 else keys)
        if key not in nested or chance.random() < 0.1:
            break
        holder = holder[key]
    old = holder[key]
    if chance.random() < 0.1:
        del holder[key]
    elif isinstance(old, torch.Tensor) and chance.random() < 0.5:
        changes = (old[..., None], old.flatten()[:1], old.to(torch.int8), old.double(), old * math.nan, old.to("meta"))
        holder[key] = chance.choice(changes)
    else:
        holder[key] = chance.choice(ENTRIES)
