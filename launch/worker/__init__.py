"""What takes runs one after another: its child process, its retries, and why an attempt ended."""
