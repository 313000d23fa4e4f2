"""The `probekit` command."""

import argparse
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
    go_on = "What is finished is kept: the same command goes on from there."
    try:
        with warnings.catch_warnings(), stoppable(go_on):
            warnings.showwarning = lambda message, *_: say(f"probekit: {message}", sys.stderr)
            options.do(options)
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
    parser.add_argument("--version", action="version", version=f"probekit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_run(commands)
    _add_notebooks(commands)
    _add_lab(commands)
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


if __name__ == "__main__":
    sys.exit(main())
