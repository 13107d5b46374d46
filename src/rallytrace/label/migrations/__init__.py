"""The schema of the label book, step by step; `open_book` runs what is missing. Add `versions/vNNNN_what.py`."""
