"""The report: one self-contained HTML page, with the tables and figures beside it as files."""
