"""What happened and happens to a launched sweep, and how to change it."""
