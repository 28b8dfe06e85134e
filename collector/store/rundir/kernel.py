"""Name every system call of the run directories once, so that a test can stop before or after it.

Runs in:    every process that creates, joins, sweeps or disposes a run directory.
Source:     SQLite's replaceable file layer (fail the k-th call) and the synchronisation points of
            Nix's collector tests; docs/decisions/0003.
"""

import fcntl
import os

close = os.close
fchmod = os.fchmod
flock = fcntl.flock
fstat = os.fstat
mkdir = os.mkdir
open_fd = os.open
readlink = os.readlink
rename = os.rename
rmdir = os.rmdir
scandir = os.scandir
stat = os.stat
unlink = os.unlink
write = os.write
