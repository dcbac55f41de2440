"""Makes the stubs from the protocol's definition: `python -m equipoise.server.protocol.generate [FOLDER]`.

The definition is registered under its public name, `equipoise/v1/equipoise.proto`, wherever the file lies.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent
PUBLIC = "equipoise/v1"
STUBS = ("equipoise_pb2.py", "equipoise_pb2.pyi", "equipoise_pb2_grpc.py")


def generate(folder: Path) -> None:
    """Write the stubs into a folder. Raises `RuntimeError` where the definition does not compile."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as scratch:
        outputs = [f"--{kind}_out={scratch}" for kind in ("python", "pyi", "grpc_python")]
        includes = [f"-I{PUBLIC}={HERE}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *includes, *outputs, f"{PUBLIC}/equipoise.proto"]):
            raise RuntimeError(f"{HERE / 'equipoise.proto'} does not compile")
        for name in STUBS:
            text = (Path(scratch) / PUBLIC / name).read_text()
            # The stubs import each other by their public name, which is not where they lie.
            text = text.replace(f"from {PUBLIC.replace('/', '.')} import", "from . import")
            (folder / name).write_text(text)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
