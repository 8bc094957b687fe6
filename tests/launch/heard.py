"""Commands that hear Ctrl-C and a hang-up, also where the tests run in the background or under nohup."""

# What ignores a signal starts others that ignore it. Not by Popen's preexec_fn: that runs Python between fork and exec,
# where a process with threads, as a test's is, may wait for a lock that nobody will ever release.
SIGNALS_HEARD = ("env", "--default-signal=INT,HUP")
