"""From a sweep file to runs: read, expanded, labelled, planned; and the memory that they need."""
