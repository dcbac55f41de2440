"""Plans to files and back. A plan saved with its spec is a bundle, which `check` re-runs anywhere.

The document is `{equipoise: VERSION, plan: ..., certificate: ..., spec: ...}`, as JSON, as YAML, or as
safetensors with the arrays as tensors and the rest as metadata. Files are written beside their final name and
moved there, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .arrays import plain_list
from .certificate import Certificate
from .documents import Document, refuse_constant
from .errors import Problem, SpecError
from .problems import problems
from .reading import as_path, read_spec, read_text
from .sources import Folder
from .spec import Plan, Spec, kind

T = TypeVar("T")

_TENSOR = "$tensor"
_NESTED = frozenset({dict, list})


@dataclass(frozen=True)
class Bundle:
    """A saved plan, with the spec that it answers where that was saved too."""

    plan: Plan
    spec: Spec[Any] | None


def save(plan: Plan, path: str | os.PathLike[str], spec: Spec[Any] | None = None) -> None:
    """Write a plan to a .json, .yaml or .safetensors file; with `spec`, as a bundle that can be replayed.

    Raises `SpecError` for another suffix. The file is replaced whole or not at all.
    """
    file = as_path(path, "save")
    if not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"save takes a plan, got {type(plan).__name__}")
    if spec is not None and spec.kind != plan.kind:
        raise SpecError(f"the plan is one of {plan.kind}, and the spec one of {spec.kind}: save it with its own spec")
    document = bundle_document(plan, spec, listed=file.suffix != ".safetensors")
    match file.suffix:
        case ".json":
            data = json.dumps(inline(document), indent=1, allow_nan=False).encode()
        case ".yaml" | ".yml":
            data = _yaml(inline(document))
        case ".safetensors":
            from safetensors.numpy import save as pack

            slim, tensors = detach(document)
            data = pack(tensors, metadata={"equipoise": json.dumps(slim, allow_nan=False)})
        case other:
            raise SpecError(
                f"{file}: cannot save as {other or 'a file without suffix'}; use .json, .yaml or .safetensors"
            )
    write_atomically(file, data)


def bundle_document(plan: Plan, spec: Spec[Any] | None, listed: bool = False) -> dict[str, Any]:
    """Plan, certificate and spec as one document, arrays still arrays; `listed`: they will be written as lists."""
    document: dict[str, Any] = {"equipoise": version("equipoise"), "plan": plan.fields()}
    if plan.certified:
        certificate = plan.certificate
        if spec is not None:
            certificate = certificate.model_copy(update={"spec_digest": spec.digest(listed)})
        document["certificate"] = certificate.document()
    if spec is not None:
        document["spec"] = spec.fields()
    return document


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan in a file that `save` wrote. Raises `SpecError`."""
    return load_bundle(path).plan


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """The plan in a file, and its spec if that is there. Raises `SpecError`."""
    file = as_path(path, "load_plan")
    if file.suffix == ".safetensors":
        return _read_bundle(_attached(file), str(path))
    document = Document(read_text(file), str(path), finite=True)
    try:
        return _read_bundle(document.value, str(path))
    except SpecError as error:
        raise document.locate(error) from None


def is_bundle(document: Any) -> bool:
    """Whether a parsed document is a saved plan (and not a spec)."""
    return isinstance(document, Mapping) and "plan" in document


def _read_bundle(document: Any, source: str) -> Bundle:
    if not is_bundle(document) or not isinstance(document["plan"], Mapping):
        raise SpecError([Problem("is not a saved plan: it has no 'plan'", (), source)])
    folder = Folder(None)
    fields = document["plan"]
    name = fields.get("kind")
    if not isinstance(name, str):
        raise SpecError([Problem("must name the kind of task", ("plan", "kind"))])
    plan = _within("plan", lambda: kind(name).plan.read(fields, folder))
    if "certificate" in document:
        plan = plan.with_certificate(_within("certificate", lambda: _certificate(document["certificate"])))
    spec = _within("spec", lambda: read_spec(document["spec"], folder)) if "spec" in document else None
    return Bundle(plan, spec)


def _certificate(document: Any) -> Certificate:
    from pydantic import ValidationError

    try:
        return Certificate.model_validate(document)
    except ValidationError as error:
        raise SpecError(problems(error, Certificate)) from None


def _within(part: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except SpecError as error:
        raise SpecError(Problem(problem.message, (part, *problem.place)) for problem in error.problems) from None


def inline(value: Any) -> Any:
    """A document with its arrays as lists, as JSON carries them."""
    if isinstance(value, Mapping):
        return {name: inline(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain_list(value)
    return list(value) if isinstance(value, tuple) else value


def detach(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A document without its arrays, and the arrays by dotted name; each place says which belongs there."""
    tensors: dict[str, NDArray[Any]] = {}
    return _slim(document, "", tensors), tensors


def _slim(document: Mapping[str, Any], prefix: str, tensors: dict[str, NDArray[Any]]) -> dict[str, Any]:
    slim = dict[str, Any]()
    for key, value in document.items():
        if isinstance(value, np.ndarray):
            name = f"{prefix}{key}"
            slim[key] = {_TENSOR: name}
            tensors[name] = value if value.flags.c_contiguous else np.ascontiguousarray(value)
        elif isinstance(value, dict):
            slim[key] = _slim(value, f"{prefix}{key}.", tensors)
        else:
            slim[key] = list(value) if isinstance(value, tuple) else value
    return slim


def attach(document: dict[str, Any] | list[Any], tensors: dict[str, NDArray[Any]], depth: int = 32) -> int:
    """The inverse of `detach`, in place, for a document as JSON gives it; arrays leave `tensors` for their one place.
    Returns how many values the lists of the document hold.

    Raises `SpecError` for an array that is not there, and where the document is nested deeper than any spec.
    """
    if not depth:
        raise SpecError("the document is nested too deeply")
    if isinstance(document, list):
        return len(document) + sum(attach(entry, {}, depth - 1) for entry in document if type(entry) in _NESTED)
    count = 0
    for key, entry in document.items():
        if type(entry) not in _NESTED:
            continue
        if len(entry) == 1 and type(entry) is dict and _TENSOR in entry:
            name = entry[_TENSOR]
            if not isinstance(name, str) or name not in tensors:
                raise SpecError(f"the tensor {name!r:.60} is not there, or has another place already")
            document[key] = tensors.pop(name)
        else:
            count += attach(entry, tensors, depth - 1)
    return count


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, whatever happens in between. Raises `SpecError` where it cannot."""
    try:
        target = Path(os.path.realpath(path))  # a link stays, and what it points to is written
        mode = _mode(target)
        temporary = target.parent / f".equipoise.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from None
    except ValueError:  # a NUL or a lone surrogate
        raise SpecError(f"{str(path)!r:.100}: is not a path that this system allows") from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except OSError as error:
        os.unlink(temporary)
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from None
    except BaseException:
        os.unlink(temporary)
        raise


def _mode(target: Path) -> int | None:
    """The permissions of a file that is to be replaced; none where there is none yet."""
    try:
        found = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise OSError("it is not a regular file")
    return stat.S_IMODE(found)


def _attached(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as stored:
            text = (stored.metadata() or {}).get("equipoise")
            if text is None:
                raise SpecError(f"{file}: is not a saved plan: it has no 'equipoise' metadata")
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        document = json.loads(text, parse_constant=lambda name: refuse_constant(name, str(file)))
        if isinstance(document, dict):
            try:
                attach(document, tensors)
            except SpecError as error:
                raise SpecError(f"{file}: {error}") from None
        return document
    except RecursionError:
        raise SpecError(f"{file}: is nested too deeply") from None
    except (AttributeError, TypeError):  # bfloat16 and 8-bit floats, which numpy has not
        raise SpecError(f"{file}: holds numbers that no plan has; save it with eq.save") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise SpecError(f"{file}: is not a valid .safetensors file: {error}") from None


def _yaml(document: Any) -> bytes:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.width = 100
    stream = StringIO()
    yaml.dump(document, stream)
    return stream.getvalue().encode()
