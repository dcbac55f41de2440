"""Makes the stubs from their definitions: `python -m equipoise.server.protocol.generate [FOLDER]`.

A definition is registered under its public name, such as `equipoise/v1/equipoise.proto`, wherever the file lies.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

SERVER = Path(__file__).parents[1]


@dataclass(frozen=True)
class Definition:
    """A `.proto` file. home: the folder that it lies in, below `server/`. package: the folder of its public name.
    kinds: what is made of it."""

    home: str
    package: str
    name: str
    kinds: tuple[str, ...]

    @property
    def stubs(self) -> list[str]:
        """Where its stubs lie, below `server/`."""
        endings = {"python": "_pb2.py", "pyi": "_pb2.pyi", "grpc_python": "_pb2_grpc.py"}
        return [f"{self.home}/{self.name}{endings[kind]}" for kind in self.kinds]


DEFINITIONS = (
    Definition("protocol", "equipoise/v1", "equipoise", ("python", "pyi", "grpc_python")),
    Definition("workers", "equipoise/workers", "chunks", ("python", "pyi")),
)
_IMPORTS = {
    "protocol": {"from equipoise.v1 import": "from . import"},
    "workers": {"from equipoise.v1 import": "from ..protocol import"},
}
"""The stubs import each other by their public names, which is not where they lie."""


def generate(folder: Path) -> None:
    """Write the stubs below a folder that stands for `server/`. Raises `RuntimeError` for a definition that does not
    compile."""
    from google.rpc import status_pb2
    from grpc_tools import protoc

    includes = [f"-I{made.package}={SERVER / made.home}" for made in DEFINITIONS]
    includes += [f"-I{files('grpc_tools') / '_proto'}", f"-I{Path(str(status_pb2.__file__)).parents[2]}"]
    for made in DEFINITIONS:
        with tempfile.TemporaryDirectory() as scratch:
            outputs = [f"--{kind}_out={scratch}" for kind in made.kinds]
            if protoc.main(["protoc", *includes, *outputs, f"{made.package}/{made.name}.proto"]):
                raise RuntimeError(f"{made.name}.proto does not compile")
            for stub in made.stubs:
                text = (Path(scratch) / made.package / Path(stub).name).read_text()
                for public, ours in _IMPORTS[made.home].items():
                    text = text.replace(public, ours)
                target = folder / stub
                target.parent.mkdir(exist_ok=True)
                target.write_text(text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SERVER)
