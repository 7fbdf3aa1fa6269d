"""The command line: `stackserve serve | check | demo | key`, and the commands on a store."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from stackserve import __version__
from stackserve.errors import ConfigError, StackserveError
from stackserve.groups_cli import add_commands

FAILED = 1
BAD_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (it failed) or 2 (the command line or file is wrong)."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return BAD_USE
    except StackserveError as error:
        print(f"{error.message} ({error.code})", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads the output has had enough; nor can the rest be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stackserve", description="Serve one LLM base and many LoRA fine-tunes of it."
    )
    parser.add_argument("--version", action="version", version=f"stackserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve", help="serve the groups of a configuration file, or what is deployed in the store"
    )
    _add_file(serve, optional=True)
    _add_serving(serve)
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate a configuration file and its adapters")
    _add_file(check)
    check.set_defaults(run=_check)

    demo = commands.add_parser("demo", help="serve the demo and ask all its models a question")
    demo.add_argument("--once", action="store_true", help="print the answers and exit")
    demo.add_argument("--question", default="What is the capital of France?")
    _add_serving(demo)
    demo.set_defaults(run=_demo)

    key = commands.add_parser("key", help="make a bearer key for a client")
    key.add_argument("name", metavar="NAME", help="who has it")
    key.set_defaults(run=_key)

    add_commands(commands)
    return parser


def _add_file(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    command.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        nargs="?" if optional else None,
        help="a YAML file, see configs/"
        + ("; without one, the store is served" if optional else ""),
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one value, for instance groups.0.engine.dtype=float32",
    )


def _add_serving(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on; 0 takes a free one")
    command.add_argument("--log-level", default="warning", choices=("debug", "info", "warning"))
    command.add_argument("--verbose", action="store_true", help="show the engines' output too")


def _serve(parsed: argparse.Namespace) -> int:
    from stackserve.serve import serve

    overrides = [
        *parsed.overrides,
        *(f"server.{name}={json.dumps(value)}" for name in ("host", "port") if (value := getattr(parsed, name)) is not None),
    ]  # fmt: skip
    return asyncio.run(
        serve(parsed.file, overrides, log_level=parsed.log_level, verbose=parsed.verbose)
    )


def _check(parsed: argparse.Namespace) -> int:
    from stackserve.check import check

    return check(parsed.file, parsed.overrides)


def _demo(parsed: argparse.Namespace) -> int:
    from stackserve.demo.run import run_demo

    return asyncio.run(
        run_demo(
            once=parsed.once,
            question=parsed.question,
            host=parsed.host,
            port=parsed.port,
            log_level=parsed.log_level,
            verbose=parsed.verbose,
        )
    )


def _key(parsed: argparse.Namespace) -> int:
    from stackserve.auth.new_key import new_key

    made = new_key(parsed.name)
    print(f"{made.key}\n\nIt is shown only now. What server.auth.bearer_keys needs of it:\n")
    print(made.yaml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
