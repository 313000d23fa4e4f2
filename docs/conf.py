"""The site: Markdown pages, some of them run, and the reference out of the docstrings."""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

from myst_nb.core.render import NbElementRenderer

import probekit

HERE = Path(__file__).parent

project = "probekit"
author = "the probekit developers"
copyright = f"2026, {author}"
version = release = probekit.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "templates", "**/.ipynb_checkpoints"]
templates_path = ["templates"]
# In docstrings, a name between single backticks leads to its page if it has one.
default_role = "py:obj"

# Pages that run, run each time, in a folder of their own: what they write is not left here.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_ipywidgets_js = {}  # no page has widgets, which would be loaded from elsewhere
nb_output_stderr = "remove"  # progress bars
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Kernels take one thread each, as pages are read side by side, and nothing from the network.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# With no profile of the user's, whose startup files would run too, and no word from kernels and
# their clients but errors.
profile = Path(tempfile.mkdtemp(), "profile_default")
profile.mkdir()
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'")
os.environ["IPYTHONDIR"] = str(profile.parent)
atexit.register(shutil.rmtree, profile.parent, ignore_errors=True)
logging.getLogger("traitlets").setLevel("ERROR")
# Their working directory is elsewhere, and this checkout is what they are about.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])


def _described(self, data, render=NbElementRenderer.render_image):
    """A cell's picture with the text alternative that it has, which MyST-NB leaves out."""
    (image,) = render(self, data)
    own = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    image.setdefault("alt", own)  # what the page says of its picture goes first
    return [image]


NbElementRenderer.render_image = _described

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "probekit"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
