"""The dashboard: a run's journal and tables as data (one module per view) and as a page.

`documents.py` has the types of the data, which `--json` prints and the page draws. `reader.py` reads a run folder; the
view modules make documents of it; `page.py` puts documents and front end into one file, and `server.py` serves the same
page with live documents.
"""
