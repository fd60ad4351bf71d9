"""The command line: arguments in, results to stdout, everything else to stderr, exit codes.

The only place that turns errors into exit codes; `commands` print the results. torch and transformers are imported
inside the commands, so that `--help` and a mistake in the arguments answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import select
import sys
from collections.abc import Sequence

from metanmt import __version__, help_texts
from metanmt.commands import adapting, comparing, learning, using
from metanmt.errors import MetanmtError
from metanmt.runlog import say
from metanmt.runtime import raise_file_limit

SUCCESS, DEFECT, MISTAKE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0; 2 for a user's mistake; 130 for Ctrl-C; 141, as other programs, if nobody reads on; 1 for a defect.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale; a file's name may hold what is no character
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    debug = False
    raise_file_limit()
    try:
        try:
            parsed = parser().parse_args(arguments)
            debug = parsed.debug
            parsed.command(parsed)
        finally:
            _flush()
    except MetanmtError as error:
        if debug:
            raise
        say(f"metanmt: {error.cause}\n         {error.remedy}")
        return MISTAKE
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return BROKEN_PIPE
    except OSError as error:
        if debug or error.errno is None:
            raise
        where = error.filename or "a file, or standard output"
        say(f"metanmt: {where}: {error.strerror}.\n         {help_texts.remedy_for(error)}")
        return MISTAKE
    except KeyboardInterrupt as stop:
        say(f"metanmt: {str(stop) or 'Stopped; nothing half-written is left behind.'}")
        return INTERRUPTED
    return SUCCESS


def _flush() -> None:
    """Write what is printed now, and not when nothing can be said of it any more."""
    try:
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
            _silence()
        raise


def _silence() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_is_gone() -> bool:
    """Return whether stdout leads nowhere any more, as in `metanmt translate ... | head`; if so, silence it."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    _silence()
    return True


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="metanmt", description=help_texts.TOP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"metanmt {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, add_arguments, command in (*learning.COMMANDS, *adapting.COMMANDS, *using.COMMANDS, *comparing.COMMANDS):
        summary, epilog = help_texts.COMMANDS[name]
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.set_defaults(command=command)
        add_arguments(sub)
    return top
