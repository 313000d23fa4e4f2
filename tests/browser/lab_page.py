"""What a person does in JupyterLab, in Playwright's words."""

import re

import nbformat
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

# The document in front; Lab keeps the hidden ones in the page.
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
CODE_CELL = f"{NOTEBOOK} .jp-CodeCell"
# Lab gives tracebacks and what a cell writes to stderr the same type and class; an exception starts
# with a rule of dashes, or, where the cell does not parse, with the cell's name.
STDERR = f'{NOTEBOOK} [data-mime-type="application/vnd.jupyter.stderr"]'
EXCEPTION = re.compile(r"\s*(-{20,}|Traceback|(Cell|File) )")


def set_parameters(path, **values):
    """Write other values into the ``parameters`` cell of the notebook at ``path``, in place.

    Raises
    ------
    ValueError
        If the notebook has no parameter of that name.
    """
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for name, value in values.items():
        line = re.compile(rf"^{name} = .*?(?=  #|$)", re.MULTILINE)
        if not line.search(cell.source):
            raise ValueError(f"{path} has no parameter {name!r}:\n{cell.source}")
        cell.source = line.sub(lambda _, n=name, v=value: f"{n} = {v!r}", cell.source)
    nbformat.write(notebook, path)


def open_notebook(page, lab, path):
    """Open the notebook at ``path``, relative to Lab's root, and wait for its kernel.

    Beside what is open, if the page shows Lab already: loading Lab anew takes longest.
    """
    if page.url.startswith(lab.address):
        page.evaluate("path => { jupyterapp.commands.execute('docmanager:open', { path }); }", path)
    else:
        page.goto(lab.url(path))
    name = path.rpartition("/")[2]
    page.wait_for_selector(f'.lm-TabBar-tab.lm-mod-current:has-text("{name}")', timeout=60_000)
    page.wait_for_selector(f"{NOTEBOOK} .jp-CodeCell")
    wait_until_idle(page, seconds=60)


def wait_until_idle(page, seconds):
    """Wait until the kernel is there and has nothing to do."""
    # The status bar, because the notebook's own indicator says "idle" before there is a kernel.
    page.wait_for_selector('#jp-main-statusbar :text("| Idle")', timeout=seconds * 1000)


def run_all_cells(page, seconds):
    """Choose Run > Run All Cells; wait until all cells have run, or one has failed.

    Raises
    ------
    TimeoutError
        If cells are still waiting after ``seconds``; with what the page shows of each.
    """
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
    # All prompts are "[*]:" at once; those after a failed cell go back to "[ ]:".
    finished = """cells => {
        const prompts = [...document.querySelectorAll(cells + ' .jp-InputPrompt')];
        const texts = prompts.map(prompt => prompt.innerText);
        return texts.some(t => /\\d/.test(t)) && !texts.some(t => t.includes('*'));
    }"""
    try:
        page.wait_for_function(finished, arg=CODE_CELL, timeout=seconds * 1000)
    except PlaywrightTimeoutError as error:
        prompts = page.locator(f"{CODE_CELL} .jp-InputPrompt").all_inner_texts()
        raise TimeoutError(f"cells still waiting after {seconds} s: {prompts}") from error
    wait_until_idle(page, seconds=60)


def failures(page):
    """Return the tracebacks shown in the notebook, then the cells that have not run, as text."""
    shown = [text for text in page.locator(STDERR).all_inner_texts() if EXCEPTION.match(text)]
    waiting = page.locator(CODE_CELL).filter(has=page.locator('.jp-InputPrompt:text("[ ]:")'))
    return shown + waiting.all_inner_texts()
