"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build/html``."""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mvmise_sm  # noqa: E402

# Sphinx reads below its own folder only; the notebooks live at the top of the repository.
NOTEBOOKS = HERE / "notebooks"
NOTEBOOKS.mkdir(exist_ok=True)
for path in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy2(path, NOTEBOOKS / path.name)

project = "mvmise_sm"
author = "The mvmise_sm developers"
copyright = author
version = release = mvmise_sm.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "entry_points",
    "mathml",
    "what_works",
]
source_suffix = {".rst": "restructuredtext", ".ipynb": "myst-nb", ".md": "myst-nb"}
exclude_patterns = ["_build", "changes", "README*"]
default_role = "py:obj"
add_module_names = False
nitpicky = False
templates_path = ["_templates"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_inherit_docstrings = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "mvmise_sm"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
_wide = ("index", "changelog", "validation", "benchmarks", "limitations", "from_mixedlm", "from_r/scripts")
html_sidebars = {page: [] for page in _wide}
html_theme_options = {
    "logo": {"text": "mvmise_sm", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "tango",
}

copybutton_prompt_text = r">>> |\.\.\. |> |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
