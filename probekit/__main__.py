"""The `probekit` command."""

import argparse
import os
import sys
import traceback
import warnings

from probekit.arguments import say, visible
from probekit.pipeline.notebooks import run_pipeline
from probekit.pipeline.parameters import describe_parameters, read_parameters
from probekit.run.stopping import Stopped, stoppable


def main(arguments=None):
    """Run the command line; the exit code is 0 only if everything asked for is finished."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(), stoppable(options.go_on):
            warnings.showwarning = lambda message, *_: say(f"probekit: {message}", sys.stderr)
            return options.command(options)
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


def _run(options):
    parameters = read_parameters(options.parameter, options.file)
    if options.run_dir is not None:
        parameters["run_dir"] = options.run_dir
    run_pipeline(**parameters)
    return 0


def _ask(options):
    # Imported here: torch takes seconds, and is not needed for help or for the notebooks' kernels.
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


class _Parser(argparse.ArgumentParser):
    """A parser that may be given the names of others' files, as by ``*``."""

    def error(self, message):
        super().error(visible(message))


def _parser():
    parser = _Parser(
        prog="probekit",
        description="Where inside a language model it shows that an answer is wrong.",
    )
    commands = parser.add_subparsers(required=True, metavar="run | ask")
    run = commands.add_parser(
        "run",
        help="execute the four notebooks, from the question file to the figure",
        description="Execute the four notebooks. Finished stages whose inputs have not changed "
        "are not run again.",
        epilog=f"parameters of the notebooks:\n{describe_parameters()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = "folder for the results (default: data/runs/ and the name of the question file)"
    run.add_argument("--run-dir", metavar="DIR", help=where)
    pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    one = "set a parameter of the notebooks, such as -p limit 200; may be repeated"
    run.add_argument("-p", dest="parameter", **pair, help=one)
    several = "read parameters from a YAML file; -p counts more"
    run.add_argument("-f", dest="file", metavar="PARAMS.yaml", help=several)
    go_on = "What is finished is kept: the same command goes on from there."
    run.set_defaults(command=_run, go_on=go_on)
    ask = commands.add_parser(
        "ask",
        help="ask the model of a run, and see how likely its answer is wrong",
        description="Ask the model of a finished run, and read its answers with the run's "
        "detector. Nothing is written into the run.",
    )
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
    ask.set_defaults(command=_ask, go_on="Nothing was written.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
