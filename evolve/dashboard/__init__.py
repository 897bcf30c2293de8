"""The dashboard: what a run's journal and table say, as data (one module per view) and as a page.

`documents.py` has the shapes of the data, which is what `--json` prints and what the page draws. `reader.py` reads a
run folder; the view modules turn that into documents; `page.py` puts documents and front end into one file, and
`server.py` serves the same page with documents that follow a run.
"""
