"""The `probekit` command."""

import argparse
import os
import sys
import traceback
import warnings

from probekit import __version__
from probekit.arguments import say, visible
from probekit.pipeline.parameters import describe_parameters, read_parameters
from probekit.run.manifest import NOTEBOOKS
from probekit.run.stopping import Stopped, stoppable


def main(arguments=None):
    """Run the command line; the exit code is 0 only if everything asked for is finished."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if options.command == "lab":
        options.jupyter = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if options.command is None:
        # As pip does: who types the bare name asks what there is.
        parser.print_help()
        return 0
    try:
        with warnings.catch_warnings(), stoppable(options.go_on):
            warnings.showwarning = lambda message, *_: say(f"probekit: {message}", sys.stderr)
            return options.do(options) or 0
    except (ValueError, TypeError, OSError) as error:
        say(f"probekit: {error}", sys.stderr)
        return 1
    except Stopped as stopped:
        return stopped.code
    except Exception:
        # Nobody foresaw it, so where it was raised is what helps. Not Python's own traceback, as
        # names and texts of others' files may be in it.
        found = traceback.format_exc()
        say(f"probekit: an unforeseen error, please report it.\n{found}", sys.stderr, 20_000)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser that may be given the names of others' files, as by ``*``."""

    def error(self, message):
        super().error(visible(message))


def _parser():
    parser = _Parser(
        prog="probekit",
        description="Where inside a language model it shows that an answer is wrong.",
    )
    parser.set_defaults(go_on="What is finished is kept: the same command goes on from there.")
    parser.add_argument("--version", action="version", version=f"probekit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_run(commands)
    _add_notebooks(commands)
    _add_lab(commands)
    _add_ask(commands)
    return parser


# What each command imports is imported by the function that does it: that takes a second, which
# the help would wait for.


def _add_run(commands):
    run = commands.add_parser(
        "run",
        help="execute the four notebooks, from the question file to the figure, or another",
        description="Execute the four notebooks of the figure, or those that --notebook names. "
        "Finished ones whose inputs have not changed are not run again.",
        epilog=f"parameters of the notebooks:\n{describe_parameters()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.set_defaults(do=_run)
    where = "folder for the results (default: data/runs/ and the name of the question file)"
    run.add_argument("--run-dir", metavar="DIR", help=where)
    dry = "only say which notebooks would be executed, and why; nothing is written"
    run.add_argument("--dry-run", action="store_true", help=dry)
    pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    which = f"execute this notebook alone: {', '.join(NOTEBOOKS)}; may be repeated"
    run.add_argument("--notebook", metavar="NAME", action="append", default=[], help=which)
    one = "set a parameter of the notebooks, such as -p limit 200; may be repeated"
    run.add_argument("-p", dest="parameter", **pair, help=one)
    several = "read parameters from a YAML file; -p counts more"
    run.add_argument("-f", dest="file", metavar="PARAMS.yaml", help=several)


def _run(options):
    from probekit.pipeline.notebooks import run_pipeline

    parameters = read_parameters(options.parameter, options.file)
    if options.run_dir is not None:
        parameters["run_dir"] = options.run_dir
    if options.notebook:
        parameters["stages"] = options.notebook
    run_pipeline(**parameters, dry_run=options.dry_run)


def _add_notebooks(commands):
    about = "copy the notebooks into a folder, for you to change"
    notebooks = commands.add_parser(
        "notebooks",
        help=about,
        description="Copy the notebooks into a folder, for you to change. Files that are there "
        "are left as they are.",
    )
    notebooks.set_defaults(do=_notebooks)
    notebooks.add_argument("folder", metavar="DIR", help="folder of the copies; made if need be")


def _notebooks(options):
    from probekit.pipeline.lab import copy_notebooks

    copy_notebooks(options.folder)


def _add_lab(commands):
    lab = commands.add_parser(
        "lab",
        help="open JupyterLab on copies of the notebooks, with a run's parameters",
        description="Open JupyterLab, on this machine only, on copies of the notebooks, in the "
        "folder notebooks-to-edit here. Copies that are there are kept as they are.",
        epilog="Other options are JupyterLab's, such as --no-browser and --port=9999.",
    )
    lab.set_defaults(do=_lab)
    which = "a run, whose directory and parameters are filled in (default: as they come)"
    lab.add_argument("--run-dir", metavar="DIR", help=which)


def _lab(options):
    from probekit.pipeline.lab import open_lab

    open_lab(options.run_dir, options.jupyter)


def _add_ask(commands):
    ask = commands.add_parser(
        "ask",
        help="ask the model of a run, and see how likely its answer is wrong",
        description="Ask the model of a finished run, and read its answers with the run's "
        "detector. Nothing is written into the run.",
    )
    ask.set_defaults(do=_ask, go_on="Nothing was written.")
    ask.add_argument("--run-dir", metavar="DIR", required=True, help="folder of the run")
    which = "split whose detector is used (default: the strictest that there is)"
    ask.add_argument("--split", metavar="SPLIT", help=which)
    named = (
        "list of things that an answer could name, such as countries, to find the exact answer by "
        "(default: the model copies it from its response)"
    )
    ask.add_argument("--candidates", metavar="NAME", help=named)
    rate = "highest share of wrong answers among those that would be given (default: 0.2)"
    ask.add_argument("--error-rate", metavar="SHARE", type=float, default=0.2, help=rate)
    asked = "questions, each in quotation marks (default: one from each line of standard input)"
    ask.add_argument("questions", nargs="*", metavar="question", help=asked)


def _ask(options):
    from probekit.interpretation.live import watch_run

    settings = {"candidates": options.candidates, "error_rate": options.error_rate}
    watch = watch_run(options.run_dir, options.split, **settings)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if hasattr(sys.stdout, "reconfigure"):  # a model may say what the terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    if not options.questions and sys.stdin.isatty():
        say("Type a question and press Enter. Ctrl-D ends it.", sys.stderr)
    code = 0
    for question in options.questions or filter(None, map(str.strip, sys.stdin)):
        try:
            watch.show(question, sys.stdout, colour)
        except ValueError as error:  # the next one may be answered
            say(f"probekit: {error}", sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
