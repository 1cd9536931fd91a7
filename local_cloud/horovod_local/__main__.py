"""`python -m horovod_local`: serve a local cloud, keep one in the background, or deploy into a running one."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

from botocore.exceptions import EndpointConnectionError

from horovod_local.background import keep
from horovod_local.cloud import DEFAULT_REGION, client
from horovod_local.deployment.deploy import deploy
from horovod_local.errors import LocalCloudError
from horovod_local.server import DEFAULT_ACCOUNT, serve
from horovod_local.shared.access_keys import read_key


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 1 after printing one line that says what failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    try:
        if options.command == "serve":
            serve(
                home=options.home,
                port=options.port,
                account=options.account,
                node_python=options.node_python,
                schedule_speed=options.schedule_speed,
                stop_with_stdin=options.stop_with_stdin,
                tell=lambda line: print(line, flush=True),
            )
        elif options.command == "keep":
            keep(options.folder, region=options.region, node_python=options.node_python)
        else:
            _deploy(options)
    except LocalCloudError as error:
        print(f"horovod_local: {error}", file=sys.stderr)
        return 1
    except EndpointConnectionError:
        print(f"horovod_local: no local cloud answers at {options.endpoint}: start one first (serve)", file=sys.stderr)
        return 1
    return 0


def _deploy(options: argparse.Namespace) -> None:
    outputs = deploy(
        options.assembly,
        clients=lambda service, *, region: client(
            service, endpoint=options.endpoint, region=region, access_key=_access_key(options.home)
        ),
        endpoint=options.endpoint,
        account=options.account,
        region=options.region,
    )
    for stack, values in outputs.items():
        for key, value in values.items():
            print(f"{stack}.{key} = {value}")


def _access_key(home: Path) -> str:
    with contextlib.suppress(OSError):
        return read_key(home)
    try:
        # Set in a shell by `cdk-horovod local env`.
        return os.environ["AWS_ACCESS_KEY_ID"]
    except KeyError:
        raise LocalCloudError(
            f"'--home' must be the home folder of a running local cloud, which holds its access key, got {home}"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m horovod_local", description="AWS on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--home",
        type=Path,
        default=Path("local-cloud"),
        help="folder of access key, logs and node files (default: ./%(default)s)",
    )
    shared.add_argument("--account", default=DEFAULT_ACCOUNT, help="the cloud's only account (default: %(default)s)")

    serving = commands.add_parser("serve", parents=[shared], help="serve the local cloud until interrupted")
    serving.add_argument("--port", type=int, default=5000, help="port on loopback, 0 for any free one (default: 5000)")
    serving.add_argument("--node-python", default=sys.executable, help="Python of the nodes (default: this one)")
    serving.add_argument(
        "--schedule-speed",
        type=float,
        default=1.0,
        help="EventBridge schedules run this many times faster (default: %(default)s)",
    )
    serving.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop when standard input closes, that is, when the parent process ends",
    )

    keeping = commands.add_parser("keep", help="hold a cloud in the background; started by `cdk-horovod local up`")
    keeping.add_argument("folder", type=Path, help="folder of the cloud's state")
    keeping.add_argument("--region", default=DEFAULT_REGION, help="default Region of clients (default: %(default)s)")
    keeping.add_argument("--node-python", default=sys.executable, help="Python of the nodes (default: this one)")

    deploying = commands.add_parser("deploy", parents=[shared], help="deploy a cdk.out, unchanged")
    deploying.add_argument("assembly", type=Path, nargs="?", default=Path("cdk.out"), help="default: ./cdk.out")
    deploying.add_argument(
        "--endpoint",
        default=os.environ.get("AWS_ENDPOINT_URL", "http://localhost:5000"),
        help="address of the local cloud (default: %(default)s)",
    )
    deploying.add_argument(
        "--region", default=DEFAULT_REGION, help="Region of stacks that name none (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
