"""The site: `sphinx-build -W docs build/site`, and then build/site/index.html in any browser, with no server.

Pages are the Markdown files of this folder. What code can tell is generated from it: the reference and the
configuration from docstrings and stubs (_ext/from_code.py), the commands from click.
"""

import re
import shutil
import sys
from pathlib import Path

import click
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import jessy_mem
import jessy_mem.cli

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from from_code import described

project = "jessy_mem"
author = "The jessy_mem developers"
project_copyright = author
version = release = jessy_mem.__version__

extensions = ["myst_parser"]
exclude_patterns = ["_ext"]
default_role = "py:obj"  # `name` in a docstring is a link, where it is a public name, and code where it is none
nitpicky = False  # annotations name what is not on this site
python_maximum_signature_line_length = 120
toc_object_entries_show_parents = "hide"
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

html_theme = "furo"
html_title = "jessy_mem"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}


class Public(SphinxDirective):
    """``.. public:: NAME``: a public name of jessy_mem, or of a module of it, with all its methods and fields."""

    required_arguments = 1

    def run(self):
        self.env.note_reread()  # the page may be older than the code
        name = self.arguments[0]
        module = f"jessy_mem.{name.rpartition('.')[0]}".rstrip(".")
        return self.parse_text_to_nodes("\n".join([f".. py:currentmodule:: {module}", "", *described(name)]))


class Commands(SphinxDirective):
    """``.. commands::``: a section for each command of the command line, with what ``--help`` says of it."""

    def run(self):
        self.env.note_reread()
        group, name = jessy_mem.cli.main, "jessy-mem"
        context = click.Context(group, info_name=name, max_content_width=80, **group.context_settings)
        sections = [self.section(name, group.get_help(context))]
        for each in group.list_commands(context):
            command = group.get_command(context, each)
            told = command.get_help(click.Context(command, context, each, max_content_width=80))
            sections.append(self.section(f"{name} {each}", told))
        return sections

    def section(self, title, text):
        found = nodes.section(ids=[nodes.make_id(title)], names=[title])
        found += [nodes.title(title, title), nodes.literal_block(text, text, language="text")]
        return found


def write_llms_txt(app, failure):
    """llms.txt: all pages with their first sentence, in the order of the contents (https://llmstxt.org)."""
    if failure or app.builder.name != "html":
        return
    order, waiting = [], [app.config.root_doc]
    while waiting:
        order.append(waiting.pop(0))
        waiting = app.env.toctree_includes.get(order[-1], []) + waiting
    lines = [f"# {project}", "", f"> {jessy_mem.__doc__.splitlines()[0]}", "", "## Pages", ""]
    for page in order:
        first = next(app.env.get_doctree(page).findall(nodes.paragraph)).astext().replace("\n", " ")
        sentence = re.split(r"(?<=[.:]) ", first)[0].rstrip(":")
        lines.append(f"- [{app.env.titles[page].astext()}]({page}.html): {sentence}")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


ASV_SITE = Path(__file__).parents[1] / "asv_bench" / ".asv" / "html"
NO_ASV_SITE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Benchmarks by commit</title></head><body>
<p>This site was built where no commit had been measured. In the folder <code>asv_bench</code> of the repository,
<code>asv run OLD..NEW</code> measures commits, <code>asv publish</code> makes a site of what it found, and the next
build of this one has it here.</p><p><a href="../benchmarks.html">Benchmarks</a></p></body></html>
"""


def add_asv_site(app, failure):
    """asv/: what `asv publish` has made, which the page of benchmarks links; or how to make it."""
    if failure or app.builder.name != "html":
        return
    place = Path(app.outdir, "asv")
    shutil.rmtree(place, ignore_errors=True)
    if ASV_SITE.is_dir():
        shutil.copytree(ASV_SITE, place)
    else:
        place.mkdir()
        (place / "index.html").write_text(NO_ASV_SITE, encoding="utf-8")


def setup(app):
    app.add_directive("public", Public)
    app.add_directive("commands", Commands)
    app.connect("build-finished", write_llms_txt)
    app.connect("build-finished", add_asv_site)
    return {"parallel_read_safe": True}
