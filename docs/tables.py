"""Tables of keys from a JSON Schema: one section for each definition, with an example for each key.

Examples come from files that tests check: a key that no file has is shown by its default, a permitted word or the
example of its schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import yaml


class Loader(yaml.SafeLoader):
    """Loader of YAML as policy files have it: `on` and `off` are words."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


LONGEST: Final = 72
"""Characters of an example that is shown in a table."""
Known = Mapping[str, dict[str, Any]]
Uses = dict[tuple[str, str], str]


def titled(whole: dict[str, Any], kept: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a schema whose definitions are named by the keys that they stand under, and the new names by the old.

    Of several places, the one with the fewest keys gives the name; `kept` are names that stay, such as those of blocks.
    """
    names = {name: name for name in kept if name in whole.get("$defs", {})}
    places = {"": whole} | {name: whole["$defs"][name] for name in names}
    while places:
        found: dict[str, list[str]] = {}
        for path, definition in places.items():
            for key, target in references(definition):
                where = f"{path}.{key}".strip(".")
                if target not in names and where not in found.setdefault(target, []):
                    found[target].append(where)
        for target, paths in found.items():
            names[target] = min(paths, key=lambda path: (path.count("."), len(path), path))
        places = {names[target]: whole["$defs"][target] for target in found}
    shared = [keys for name, keys in names.items() if list(names.values()).count(keys) > 1]
    for name, keys in names.items():
        if keys in shared and name not in kept:  # alternatives of one key
            words = re.sub(r"(Fault|Measure)?(Spec)?$", "", name)
            names[name] = f"{keys} ({re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', words).lower()})"
    assert len(set(names.values())) == len(names), sorted(names.values())

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: f"#/$defs/{names.get(target := str(each).rpartition('/')[2], target)}"
                if key == "$ref"
                else renamed(each)
                for key, each in value.items()
            }
        return [renamed(each) for each in value] if isinstance(value, list) else value

    definitions = {names.get(name, name): renamed(each) for name, each in whole.get("$defs", {}).items()}
    return renamed({key: value for key, value in whole.items() if key != "$defs"}) | {"$defs": definitions}, names


def other_places(whole: dict[str, Any], title: str) -> str:
    """Return a sentence on the other keys that a definition stands under; an empty string without any."""
    owners = {"": whole} | whole["$defs"]
    found = {f"{owner}.{key}" for owner, each in owners.items() for key, target in references(each) if target == title}
    found = {re.sub(r" \(.*?\)", "", place).strip(".") for place in found} - {re.sub(r" \(.*\)$", "", title)}
    return f" The same stands under {', '.join(f'`{place}`' for place in sorted(found))}." if found else ""


def references(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the definitions to which a schema refers, each with the keys that lead to it; NAME stands for any name."""
    if isinstance(value, list):
        for each in value:
            yield from references(each, key)
    if not isinstance(value, dict):
        return
    if (target := value.get("$ref")) is not None:
        yield key, target.rpartition("/")[2]
    for name, inner in value.items():
        if name == "properties":
            for inside, each in inner.items():
                yield from references(each, f"{key}.{inside}".strip("."))
        elif name == "patternProperties":
            yield from references(list(inner.values()), f"{key}.NAME".strip("."))
        elif name == "additionalProperties":
            yield from references(inner, f"{key}.NAME".strip("."))
        elif name in ("items", "anyOf", "oneOf", "allOf"):
            yield from references(inner, key)


def anchor(title: str) -> str:
    """Return the anchor of a section by its title, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def load(text: str) -> Any:
    """Return what YAML holds."""
    return yaml.load(text, Loader)


def mapping(definition: dict[str, Any]) -> dict[str, Any] | None:
    """Return the form of a definition that has keys; None if it has none.  Some may be written shorter too."""
    return next((form for form in (definition, *definition.get("anyOf", ())) if form.get("properties")), None)


def table(name: str, definition: dict[str, Any], known: Known, uses: Uses) -> Iterator[str]:
    """Yield the table of a definition's keys."""
    yield "| key | value | default | | example |\n|---|---|---|---|---|\n"
    for key, value in definition.get("properties", {}).items():
        shown = f"`{written(default)}`" if (default := default_of(value)) not in (None, [], {}, "") else ""
        text = " ".join(str(value.get("description") or described(value, known)).split()).replace("|", "\\|")
        example = uses.get((name, key)) or uses.get(("", key)) or made(key, value, known)
        yield f"| `{key}` | {kind(value, known)} | {shown} | {text} | {f'`{example}`' if example else ''} |\n"


def described(value: dict[str, Any], known: Known) -> str:
    """Return the first sentence about the definition that a key refers to; an empty string where it is none."""
    for form in (value, value.get("additionalProperties"), value.get("items"), *value.get("anyOf", ())):
        if isinstance(form, dict) and (target := form.get("$ref")) is not None:
            text = str(known.get(target.rpartition("/")[2], {}).get("description", ""))
            return re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0]
    for form in value.get("patternProperties", {}).values():
        return described(form, known)
    return ""


def default_of(value: dict[str, Any]) -> Any:
    """Return the default of a key as a file writes it; None where it has none, or where its own table tells it."""
    default, pattern = value.get("default"), str(value.get("pattern", ""))
    if isinstance(default, dict) and ("$ref" in value or "anyOf" in value):
        return None
    if isinstance(default, int | float) and not isinstance(default, bool) and value.get("type") == "string":
        if "KiB" in pattern:
            return f"{default:g}B" if default % 1024 or not default else f"{default // 1024:g}KiB"
        if "ms|s" in pattern:
            return f"{default:g}s" if default >= 1 or not default else f"{default * 1000:g}ms"
        return f"{default * 100:g}%" if "%" in pattern else default
    return default


def kind(value: dict[str, Any], known: Known) -> str:
    """Return in a few words what a key may hold."""
    if (target := value.get("$ref")) is not None:
        name = target.rpartition("/")[2]
        if mapping(known.get(name, {})) is not None:
            return f"[{name}](#{anchor(name)})"
        return kind(known.get(name, {}), known if "oneOf" in known.get(name, {}) else {})
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in value:
            return " or ".join(dict.fromkeys(filter(None, (kind(each, known) for each in value[several]))))
    if value.get("type") == "array":
        return f"list of {kind(value.get('items', {}), known) or 'values'}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties") or next(iter(value.get("patternProperties", {}).values()), None)
        return f"names, each with {kind(inner, known)}" if isinstance(inner, dict) and inner else "mapping"
    if examples := value.get("examples"):
        return f"such as `{examples[0]}`"
    if isinstance(value.get("type"), list):
        return " or ".join(kind({"type": each}, known) for each in value["type"])
    return {
        "integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`",
    }.get(str(value.get("type", "")), "")  # fmt: skip


def written(value: Any) -> str:
    """Return a value as a file has it, on one line."""
    if isinstance(value, str) and not re.search(r"[:#{}\[\],&*?|<>=!%@`\s]|^$", value):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    text = re.sub(r"'(on|off|yes|no)'", r"\1", text)  # words in YAML 1.2, which the files are
    return text.removesuffix("\n").removesuffix("\n...").replace("|", "\\|")


def made(key: str, value: dict[str, Any], known: Known, depth: int = 0) -> str:
    """Return an example of a key from its schema alone; an empty string where that says too little."""
    found = value_of(value, known, depth)
    return "" if found is None else f"{key}: {written(found)}"


def value_of(value: dict[str, Any], known: Known, depth: int = 0) -> Any:
    """Return a value that a schema permits; None where it says too little."""
    if depth > 4:
        return None
    if (target := value.get("$ref")) is not None:
        return value_of(known.get(target.rpartition("/")[2], {}), known, depth + 1)
    if isinstance(value.get("default"), bool):
        return not value["default"]
    if value.get("type") == "string" and not isinstance(value.get("default"), str) and value.get("examples"):
        return value["examples"][0]  # the default of a quantity is a number, which no file has
    for name in ("const", "default"):
        if value.get(name) not in (None, "", [], {}):
            return value[name]
    for name in ("examples", "enum"):
        if value.get(name):
            return value[name][0]
    for several in ("anyOf", "oneOf"):
        for each in value.get(several, ()):
            if (found := value_of(each, known, depth + 1)) not in (None, "off"):
                return found
    if value.get("type") == "array":
        found = value_of(value.get("items", {}), known, depth + 1)
        return None if found is None else [found]
    if (form := mapping(value)) is not None:
        wanted = form.get("required") or list(form["properties"])[:1]
        inside = {key: value_of(form["properties"][key], known, depth + 1) for key in wanted}
        return None if None in inside.values() else inside
    if value.get("type") in ("integer", "number"):
        return value.get("minimum") or value.get("exclusiveMinimum") or 1
    return {"string": "text", "boolean": True}.get(str(value.get("type")))


def usages(whole: dict[str, Any], documents: Iterable[Any], name: str = "") -> Uses:
    """Return the shortest example of each key in documents, by the definition that it belongs to and the key."""
    known = whole.get("$defs", {})
    found: Uses = {}
    for document in documents:
        _walk(name, whole, document, known, found)
    return found


def _walk(name: str, schema: dict[str, Any], value: Any, known: Known, found: Uses) -> None:
    if (target := schema.get("$ref")) is not None:
        name = target.rpartition("/")[2]
        schema = known.get(name, {})
    properties = schema.get("properties", {})
    if isinstance(value, dict) and properties:
        mark = next((k for k, v in properties.items() if "const" in v or "enum" in v), None)
        if mark in ("fault", "measure") and value.get(mark) not in (
            properties[mark].get("enum", ()) or (properties[mark].get("const"),)
        ):
            return
        if schema.get("additionalProperties") is False and value.keys() - properties.keys():
            return
        for key, each in value.items():
            if key in properties:
                example = f"{key}: {written(each)}"
                if len(example) <= LONGEST and "`" not in example:
                    before = found.get((name, key))
                    if before is None or (len(example), example) < (len(before), before):
                        found[name, key] = example
                _walk("", properties[key], each, known, found)
    for several in ("anyOf", "oneOf", "allOf"):
        for form in schema.get(several, ()):
            _walk(name, form, value, known, found)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for each in value:
            _walk("", schema["items"], each, known, found)
    if isinstance(value, dict):
        inner = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
        if isinstance(inner, dict):
            for each in value.values():
                _walk("", inner, each, known, found)
