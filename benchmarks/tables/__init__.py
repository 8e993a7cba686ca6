"""The tables of the documents, each a function from `results/` to Markdown."""
