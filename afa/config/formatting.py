"""Settings -> HOCON."""

import json
from typing import Any

from afa.config.settings import FIELDS, STAGE_NAMES, Settings, section_values

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def _sections(settings: Settings) -> dict[str, dict[str, Any]]:
    """Name of a section -> its keys and values; ``stage`` is the section of the only stage."""
    stages = zip(STAGE_NAMES if len(settings.stages) > 1 else ["stage"], settings.stages, strict=False)
    sections = {"data": settings.data, "backbone": settings.backbone, **dict(stages)}
    sections |= {"compute": settings.compute, "run": settings.run}
    return {name: section_values(section) for name, section in sections.items()}


def format_settings(settings: Settings) -> str:
    """HOCON with every key, which loads back as equal settings."""
    blocks = []
    for name, values in _sections(settings).items():
        lines = [f"{key} = {to_hocon(value)}\n" for key, value in values.items()]
        is_block = name in STAGE_NAMES
        blocks.append(f"{name} {{\n  {'  '.join(lines)}}}\n" if is_block else f"# {name}\n{''.join(lines)}")
    return "\n".join(blocks)


def format_changed_settings(settings: Settings) -> str:
    """HOCON with the keys whose values are not the defaults, one line per section."""
    lines = []
    for name, values in _sections(settings).items():
        changed = {key: value for key, value in values.items() if value != FIELDS[key].default}
        text = ", ".join(f"{key} = {to_hocon(value)}" for key, value in changed.items())
        lines.append(f"{name} {{ {text} }}" if name in STAGE_NAMES else text)
    return "\n".join(filter(None, lines))


def to_hocon(value: Any) -> str:
    """JSON with the few escapes that pyhocon knows: ``\\u0041`` is not one of them."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_hocon, value))}]"
    return json.dumps(value)
