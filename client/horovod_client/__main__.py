"""Run the command line tool as `python -m horovod_client`."""

from horovod_client.cli import main

raise SystemExit(main())
