"""The page: one static `index.html` that works from file://, with players, tables and curves."""

from reports.page.data import embed
from reports.page.render import Missed, Picture, render_page

__all__ = ["Missed", "Picture", "embed", "render_page"]
