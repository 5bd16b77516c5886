"""A plugin for buf: Python messages, gRPC stubs and their types, with the comments of the protos.

buf knows no plugin for gRPC in Python; grpc_tools has it inside its own protoc, which is run here
on the descriptors that buf hands over.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def main() -> None:
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    with tempfile.TemporaryDirectory() as folder:
        response = generate(request, Path(folder))
    sys.stdout.buffer.write(response.SerializeToString())


def generate(
    request: plugin_pb2.CodeGeneratorRequest, folder: Path
) -> plugin_pb2.CodeGeneratorResponse:
    out = folder / "out"
    out.mkdir()
    descriptors = folder / "descriptors.binpb"
    descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())

    def run(files: list[str], *arguments: str) -> None:
        if protoc.main(["protoc", f"--descriptor_set_in={descriptors}", *arguments, *files]) != 0:
            sys.exit(1)

    wanted = list(request.file_to_generate)
    with_services = {file.name for file in request.proto_file if file.service}
    run(
        wanted,
        f"--python_out={out}",
        f"--plugin=protoc-gen-mypy={plugin(folder, 'main')}",
        f"--mypy_out=quiet:{out}",
    )
    run(
        [name for name in wanted if name in with_services],
        f"--grpc_python_out={out}",
        f"--plugin=protoc-gen-mypy_grpc={plugin(folder, 'grpc')}",
        f"--mypy_grpc_out=quiet:{out}",
    )
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text("utf-8"))
    return response


def plugin(folder: Path, function: str) -> Path:
    """protoc wants an executable for a plugin that is a function of a module."""
    path = folder / f"mypy-{function}"
    path.write_text(
        f"#!{sys.executable}\nfrom mypy_protobuf.main import {function}\n{function}()\n", "utf-8"
    )
    path.chmod(0o755)
    return path


main()
