"""Runqy's queue files: YAML, with the queues by their names under `queues`. A file or a queue that is wrong is told of,
and does not stop the others."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from .engine.endpoints import ID
from .queue_definition import QueueDefinition

SUFFIXES = (".yaml", ".yml")


class Files(NamedTuple):
    """What there is in a directory. `contents`: of each file, by its name; `errors`: what could not be read."""

    contents: dict[str, bytes]
    errors: tuple[str, ...] = ()


class Parsed(NamedTuple):
    """What the files say.

    `queues`: by name; `errors`: what is wrong, each with the file and the queue it is in; `wrong`: the queues that
    stand in the files but cannot be used; `complete`: whether every file could be read, so that a queue that is in
    neither of the two stands in none.
    """

    queues: dict[str, QueueDefinition]
    errors: list[str]
    wrong: set[str]
    complete: bool


def read(folder: Path) -> Files:
    """The queue files of a directory, but those whose names begin with a dot: editors leave such ones."""
    contents: dict[str, bytes] = {}
    errors: list[str] = []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    except OSError as error:
        return Files({}, (f"{folder}: cannot be read: {error.strerror}",))
    for path in paths:
        try:
            contents[path.name] = path.read_bytes()
        except OSError as error:
            errors.append(f"{path.name}: cannot be read: {error.strerror}")
    return Files(contents, tuple(errors))


def parse(files: Files) -> Parsed:
    """What the files say, and what is wrong with them. Of a queue that is in two of them the first counts."""
    parsed = Parsed({}, list(files.errors), set(), not files.errors)
    where: dict[str, str] = {}
    for file, content in files.contents.items():
        try:
            sections = _sections(content)
            queues = _mapping(sections.pop("queues", None), "`queues` has the queues by their names")
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            parsed.errors.append(f"{file}: {_one_line(error)}")
            parsed = parsed._replace(complete=False)
            continue
        parsed.errors.extend(f"{file}: {name!r} counts for nothing; there is only `queues`" for name in sections)
        for name, fields in queues.items():
            if name in where:
                parsed.errors.append(f"{file}: queue {name!r}: it is in {where[name]} already")
                continue
            where[name] = file
            try:
                parsed.queues[name] = _definition(name, fields)
            except (ValueError, msgspec.ValidationError) as error:
                parsed.errors.append(f"{file}: queue {name!r}: {_one_line(error)}")
                parsed.wrong.add(name)
    return parsed


class _Loader(yaml.SafeLoader):
    """PyYAML's, but a key that is there twice is an error, as YAML has it; PyYAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Of PyYAML: a mapping as it is written, before `<<` is followed."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _sections(content: bytes) -> dict[str, Any]:
    """What is at the top of a file, as JSON has it: what YAML has besides (dates, numbers as keys) becomes text.

    Raises:
        YAMLError, ValueError, RecursionError: it is no queue file.
    """
    try:
        found = msgspec.json.decode(msgspec.json.encode(yaml.load(content, _Loader)))  # noqa: S506
    except TypeError as error:  # a key that is a list, say
        raise ValueError(str(error)) from None
    except (LookupError, AttributeError):  # of PyYAML, for a tag whose value is none of its: `!!int ""`, `!!bool x`
        raise ValueError("a value is not what its tag says") from None
    return _mapping(found, "it has no `queues`")


def _mapping(value: Any, complaint: str) -> dict[str, Any]:
    """Of what may be left empty."""
    if not isinstance(value or {}, dict):
        raise ValueError(complaint)  # noqa: TRY004
    return value or {}


def _definition(name: str, fields: Any) -> QueueDefinition:
    """A queue.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    if not ID.fullmatch(name):
        raise ValueError("a queue's name is 1 to 63 letters, digits, '-' or '_', and has no dot")
    definition = msgspec.convert(_said(fields), QueueDefinition)
    if definition.deployment is None:
        raise ValueError("deployment is required")
    return definition


def _said(value: Any) -> Any:
    """Without fields that are left empty, which Runqy takes for missing."""
    if isinstance(value, dict):
        return {name: _said(item) for name, item in value.items() if item is not None}
    return [_said(item) for item in value] if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it contains itself, or too deep a nesting"
    return " ".join(str(error).split())
