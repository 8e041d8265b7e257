"""Serve a trained model over HTTP: python serve.py -r saved/models/<name>/<run>/model_best.pth."""

import argparse
import socket
from importlib.util import find_spec

from utils.distributed.launch import refuse_several
from utils.errors import UserError, clean_exit, in_one_line

NEEDS = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def main(flags: argparse.Namespace) -> None:
    """Load the model, open the port, and answer until a signal ends it."""
    missing = [package for module, package in NEEDS.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"serving needs packages that are not installed: pip install {' '.join(missing)}")
    # Imported here, so that --help need not wait for torch.
    from base.trained_model import TrainedModel
    from serving.app import create_app, prepare
    from serving.server import Server

    model = TrainedModel.load(flags.resume, flags.device)
    app = create_app(model, flags.max_bytes)
    prepare(model)
    with open_port(flags.host, flags.port) as port:
        print(f"{model.path}: serving at http://{flags.host}:{port.getsockname()[1]}", flush=True)
        Server(app).serve_on(port)


def open_port(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UserError if the port is in use, or the host is not one of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else answers wait 40 ms for the client's ACK
        return listening
    except OverflowError as error:
        raise UserError(f"--port: got {port}; it should be from 0 to 65535") from error
    except OSError as error:
        raise UserError(f"--host, --port: cannot listen at {host}:{port}: {error.strerror or error}") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a trained model over HTTP.", allow_abbrev=False)
    parser.add_argument(
        "-r", "--resume", metavar="CHECKPOINT", required=True, help="checkpoint, run folder or 'latest'"
    )
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (auto)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1); 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="port (8000); 0 for a free one")
    parser.add_argument("--max-bytes", type=int, default=16_000_000, metavar="N", help="largest body of a request")
    flags = in_one_line(parser).parse_args()
    with clean_exit():
        refuse_several("serve.py")
        main(flags)
