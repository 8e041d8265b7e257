"""Serve a trained model over HTTP: python serve.py -r saved/models/<name>/<run>/model_best.pth."""

import argparse
import os
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec

from serving.workers import Workers, require_workers
from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line, shown

NEEDS = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


def main(flags: argparse.Namespace) -> None:
    """Take the port, and answer at it until a signal, in this process or in several workers."""
    missing = [package for module, package in NEEDS.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"serving needs packages that are not installed: pip install {' '.join(missing)}")
    require_workers(flags.workers)
    if flags.max_bytes < 1:
        raise UserError(f"--max-bytes: got {flags.max_bytes}; it should be 1 or more")
    with bound_port(flags.host, flags.port) as port:

        def say(checkpoint: str) -> None:
            print(f"{shown(checkpoint)}: serving at http://{flags.host}:{port.getsockname()[1]}", flush=True)

        if flags.workers == 1:
            serve(flags, flags.resume, port, ready=say)
        else:
            Workers(flags.workers, lambda same, ready: serve(flags, same or flags.resume, port, ready)).run(
                say, ends=port.close
            )


def serve(flags: argparse.Namespace, where: str, port: socket.socket, ready: Callable[[str], object]) -> None:
    """Load the model, compute once, listen, call ready with the checkpoint's path, and answer until a signal."""
    # Imported here, so that --help need not wait for torch, nor the parent of workers be large.
    from base.trained_model import TrainedModel
    from serving.app import create_app, prepare
    from serving.server import Server

    model = TrainedModel.load(where, flags.device)
    app = create_app(model, flags.max_bytes)
    prepare(model, flags.workers)
    try:
        port.listen(2048)
    except OSError as error:  # another process has bound it at the same time, and was faster
        raise UserError(f"--port: cannot listen at {port.getsockname()[1]}: {error.strerror or error}") from error
    ready(str(model.path))
    Server(app).serve_on(port)


def bound_port(host: str, port: int) -> socket.socket:
    """A socket that can listen. Raises UserError if the port is in use, or the host is not one of this machine."""
    if not 0 <= port <= 65535:  # which getaddrinfo would take modulo 65536
        raise UserError(f"--port: got {port}; it should be from 0 to 65535")
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # else a service that starts again waits for the old connections to time out
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else answers wait 40 ms for the client's ACK
        bound.bind(address)
        return bound
    except OSError as error:
        if bound is not None:
            bound.close()
        raise UserError(f"--host, --port: cannot listen at {host}:{port}: {error.strerror or error}") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a trained model over HTTP.", allow_abbrev=False)
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder, 'latest' or 'best'"
    )
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1); 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="port (8000); 0 for a free one")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that serve the port (1)")
    parser.add_argument("--max-bytes", type=int, default=16_000_000, metavar="N", help="largest body of a request")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("serve.py")
        main(flags)
    sys.stdout.flush()
    os._exit(0)  # Python's own end takes seconds once torch is loaded, of the 10 that there are after SIGTERM
